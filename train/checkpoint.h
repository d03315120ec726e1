#pragma once

#include "train/student_teacher.h"

#include <filesystem>
#include <optional>
#include <string>

namespace dino {

/// Where a run stands between two steps. Random draws depend on seed, epoch, step and sample only, so that nothing
/// else is needed to go on.
struct TrainingPosition {
  std::int64_t epoch = 0;  // the next batch is in this epoch
  std::int64_t batch = 0;  // number of the next micro-batch within it
  std::int64_t step = 0;   // optimiser steps so far
  double best_score = -1;  // of the checkpoint `best`; negative: none yet

  bool operator==(const TrainingPosition&) const = default;
};

inline constexpr const char* kLastCheckpoint = "last.safetensors";
inline constexpr const char* kBestCheckpoint = "best.safetensors";

/// Writes the whole state of a run as one .safetensors file, atomically: `student.NAME`, `teacher.NAME`,
/// `optimizer.first_moment.NAME`, `optimizer.second_moment.NAME` (all fp32), `optimizer.update_counts` (int64, one per
/// parameter), `center` (K); the position and the configuration's TOML text in the metadata.
void write_checkpoint(const std::filesystem::path& path, StudentTeacher& networks, const TrainConfig& config,
                      const TrainingPosition& position);

/// Puts a checkpoint's state into `networks`. Throws Error, and changes nothing, when a tensor is missing or has
/// another shape, or when the run's configuration differs in a key that a run cannot change half-way.
TrainingPosition read_checkpoint(const std::filesystem::path& path, StudentTeacher& networks,
                                 const TrainConfig& config);

/// The newest checkpoint of the run in a folder; none where there is no run.
std::optional<std::filesystem::path> find_checkpoint(const std::filesystem::path& output_dir);

}  // namespace dino
