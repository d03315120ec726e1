#pragma once

#include "models/safetensors.h"
#include "train/student_teacher.h"

#include <filesystem>
#include <string>
#include <vector>

namespace dino {

/// Where a run stands between two steps. Random draws depend on seed, epoch, step and sample only, so that nothing
/// else is needed to go on.
struct TrainingPosition {
  std::int64_t epoch = 0;   // the next batch is in this epoch
  std::int64_t batch = 0;   // number of the next micro-batch within it
  std::int64_t step = 0;    // optimiser steps so far
  double best_score = -1;   // of the checkpoint `best`; negative: none yet
  int rollbacks = 0;        // how often the run went back; each halves the learning rate
  bool healthy = true;      // nothing was the matter: Health::sound()
  std::string health = {};  // Health::state(); empty: that of a new run

  bool operator==(const TrainingPosition&) const = default;
};

inline constexpr const char* kLastCheckpoint = "last.safetensors";
inline constexpr const char* kPreviousCheckpoint = "previous.safetensors";  // what `last` was before
inline constexpr const char* kBestCheckpoint = "best.safetensors";
/// The newest of an epoch's end at which the run was healthy; kept where the run may go back to it.
inline constexpr const char* kHealthyCheckpoint = "healthy.safetensors";

/// The file is not a whole and unchanged checkpoint.
class DamagedCheckpoint : public Error {
 public:
  using Error::Error;
};

/// Writes the whole state of a run as one .safetensors file with a checksum, atomically: `student.NAME`,
/// `teacher.NAME`, `optimizer.first_moment.NAME`, `optimizer.second_moment.NAME` (all fp32), `optimizer.update_counts`
/// (int64, one per parameter), `center` (K); the position and the configuration's TOML text in the metadata. The file
/// that had the name so far gets the name `former`, if there is one (AtomicFile::commit). Holds one tensor at a time in
/// the host's memory. Throws WriteError where the disk does not take it.
void write_checkpoint(const std::filesystem::path& path, StudentTeacher& networks, const TrainConfig& config,
                      const TrainingPosition& position, const std::filesystem::path& former = {});

/// What the networks of a run take from a checkpoint.
struct CheckpointNeeds {
  const ParameterLayout& layout;
  Shape center;   // (K)
  int ranks = 1;  // that train them
};

/// A checkpoint from which a run can go on: all of it was looked at, nothing was copied yet.
struct OpenCheckpoint {
  SafetensorsReader file;
  TrainingPosition position;  // in micro-batches of the run that goes on
};

/// Throws as read_checkpoint().
OpenCheckpoint open_checkpoint(const std::filesystem::path& path, const CheckpointNeeds& needs,
                               const TrainConfig& config);

/// Puts a checkpoint's state into `networks`. Throws DamagedCheckpoint when the file is not what was written, Error
/// when the run's configuration differs in a key that a run cannot change half-way; nothing is changed then. Holds one
/// tensor at a time in the host's memory; where the disk fails half-way, a DamagedCheckpoint leaves a part of the
/// state.
TrainingPosition read_checkpoint(const std::filesystem::path& path, StudentTeacher& networks,
                                 const TrainConfig& config);

/// The checkpoints in a folder from which its run can go on, the newest first; none where there is no run.
std::vector<std::filesystem::path> find_checkpoints(const std::filesystem::path& output_dir);

/// A checkpoint of any name that a run gives in a folder, `epoch_0010.safetensors` as well; empty where there is none.
std::filesystem::path any_checkpoint(const std::filesystem::path& output_dir);

/// The step of the position in a checkpoint, of which only the header is read. Throws DamagedCheckpoint.
std::int64_t step_of_checkpoint(const std::filesystem::path& path);

}  // namespace dino
