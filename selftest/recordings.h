#pragma once

#include "models/safetensors.h"
#include "train/schedules.h"
#include "train/student_teacher.h"

#include <filesystem>
#include <string>
#include <vector>

namespace dino {

/// A training run that the official implementation was recorded in (tests/golden/README.md), and the configuration that
/// repeats it.
class TrainingRecording {
 public:
  /// Throws Error where the file's metadata or tensors are not those of such a run.
  explicit TrainingRecording(SafetensorsFile file);

  int steps() const { return config.epochs * steps_per_epoch_; }
  /// Of the schedules at a step.
  StepValues values(int step) const;
  /// The recorded crops of a step, on the device.
  TrainingCrops crops(Context& context, int step) const;
  /// Student and teacher as they were before the first step. Throws Error where a tensor has another shape.
  void load_initial(StudentTeacher& networks) const;
  /// The parameters that `step*.grad_norms` are of.
  std::vector<std::string> parameter_order() const;

  SafetensorsFile file;
  TrainConfig config;

 private:
  int steps_per_epoch_ = 0;
  Schedules schedules_;
};

/// The whole number that a file's metadata has under this key. Throws Error where there is none, from 0 to a million.
int whole_number(const SafetensorsFile& file, const std::string& key);

/// What the program carries with it to test itself by.
struct Recordings {
  TrainingRecording training;
  SafetensorsFile backbone;  // weights of one Vit; its sizes are in the metadata
  SafetensorsFile forward;   // for each case `NAME.images` and, of these weights, `NAME.cls`
};

/// Those inside the program: train_adamw, backbone and forward.
Recordings built_in_recordings();
/// The same three files in a folder. Throws Error where one is missing or another kind of file.
Recordings read_recordings(const std::filesystem::path& folder);

}  // namespace dino
