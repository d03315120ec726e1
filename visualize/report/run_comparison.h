#pragma once

#include "visualize/report/run_history.h"

#include <nlohmann/json_fwd.hpp>

#include <cstddef>
#include <string>
#include <vector>

namespace dino {

/// A curve as a line of block characters ▁ to █, `columns` wide at most, between `low` and `high`; means of the points
/// that share a column.
std::string block_curve(const std::vector<SeriesPoint>& points, std::size_t columns, double low, double high);

struct ComparisonStyle {
  int columns = 80;    // of the terminal
  bool color = false;  // mark the best of each row
};

/// Runs side by side for a terminal: numbers, small curves on common scales, and the keys of the configuration in which
/// they differ. More runs than fit beside each other go below each other.
std::string compare_runs(const std::vector<const RunHistory*>& runs, const ComparisonStyle& style);

/// The same numbers for programs: {"runs": [{…}], "differences": {key: [values]}}.
nlohmann::ordered_json comparison_json(const std::vector<const RunHistory*>& runs);

}  // namespace dino
