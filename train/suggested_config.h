#pragma once

#include "data/survey.h"
#include "train/config.h"

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace dino {

/// The machine that a run is meant for.
struct MachineSummary {
  bool has_gpu = false;
  std::size_t memory_bytes = 0;  // that a run may take, of the GPU or of the computer; 0: unknown
  int cores = 1;
  /// The largest batch of a configuration that fits there (train/memory_plan.h), at most `most`; 0 where not even 1
  /// does. Empty: the memory is unknown, and any batch is taken to fit.
  std::function<int(const TrainConfig& config, int most)> largest_batch = {};
};

/// A key that is set, and why.
struct ConfigReason {
  std::string key;
  std::string reason;
};

struct SuggestedConfig {
  TrainConfig config;
  std::vector<ConfigReason> reasons;  // of every key that is not the official default, and a few that are
  std::vector<std::string> notes;     // what else the user should know
};

/// A configuration that suits the data and the machine: a function of its arguments only. check_config() accepts it,
/// train() finds at least one whole step in an epoch, and the batch fits where any does.
/// The official defaults are for 1.28 million photographs on 16 GPUs; what differs from them follows the examples in
/// configs/ whose results docs/results.md has, or scales them.
SuggestedConfig suggest_config(const DataSummary& data, const MachineSummary& machine);

/// As a TOML file: the notes, then by sections the keys that have a reason, with the reason beside each.
/// `title` is its first comment.
std::string write_suggested_config(const SuggestedConfig& suggested, const std::string& title);

}  // namespace dino
