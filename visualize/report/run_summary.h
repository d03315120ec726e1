#pragma once

#include "visualize/report/run_history.h"

#include <optional>
#include <string>
#include <vector>

namespace dino {

/// The numbers by which runs are compared. Empty where a run did not log them.
struct RunSummary {
  std::string name;
  std::int64_t steps = 0, epochs = 0;           // done
  std::optional<double> wanted_epochs;          // as configured
  std::optional<double> loss, lowest_loss;      // mean of the newest steps, and the lowest of such means
  std::optional<double> entropy, most_entropy;  // of the teacher, and ln K
  std::optional<double> images_per_second, data_wait_share;
  std::vector<KnnScore> teacher, student;  // of the newest evaluation
  std::optional<KnnScore> best_teacher;    // of all evaluations
  std::optional<double> untrained;         // best top-1 of the untrained teacher
};

RunSummary summarize(const RunHistory& run);

/// Names that tell the runs apart: that of the folder, behind its parent's where folders are called alike.
std::vector<std::string> run_names(const std::vector<const RunHistory*>& runs);

/// A key whose value is not the same in all runs; its value in each.
struct ConfigDifference {
  std::string section, key, default_value;
  std::vector<std::string> values;
};

/// Without output_dir, in which they always differ.
std::vector<ConfigDifference> config_differences(const std::vector<const RunHistory*>& runs);

}  // namespace dino
