#pragma once

#include "train/checkpoint.h"

#include <filesystem>
#include <string>

namespace dino {

enum class StartMode { fresh, resume };

/// The folder in which a run keeps its checkpoints and logs.
class RunFolder {
 public:
  /// Makes the folder and removes what a killed process left half-written. Throws Error, and changes nothing, when a
  /// fresh run finds another run in it, or a resumed one finds none.
  RunFolder(const TrainConfig& config, StartMode start);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path file(const std::string& name) const { return path_ / name; }

  /// Writes config.toml.
  void save_config() const;
  /// Puts the newest checkpoint's state into `networks`.
  TrainingPosition resume(StudentTeacher& networks) const;
  /// Writes a checkpoint of this name, in the place of an older one.
  void save(const std::string& name, StudentTeacher& networks, const TrainingPosition& position) const;

 private:
  TrainConfig config_;
  std::filesystem::path path_;
};

}  // namespace dino
