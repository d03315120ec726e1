#include "visualize/report/run_comparison.h"

#include "engine/text.h"
#include "visualize/report/html.h"
#include "visualize/report/run_summary.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <optional>
#include <set>

namespace dino {
namespace {

constexpr std::size_t kLabelColumns = 20, kMinCellColumns = 12;

/// A row of numbers and what the best of them is.
struct Row {
  std::string label;
  std::vector<std::string> values;
  std::optional<std::size_t> best = {};
};

enum class Better { neither, low, high };

Row number_row(std::string label, const std::vector<std::optional<double>>& values, const std::string& suffix,
               Better better) {
  Row row{std::move(label), {}};
  for (std::size_t i = 0; i < values.size(); ++i) {
    row.values.push_back(values[i] ? short_number(*values[i]) + suffix : "–");
    if (!values[i] || better == Better::neither || values.size() < 2) continue;
    const bool ahead =
        !row.best || (better == Better::low ? *values[i] < *values[*row.best] : *values[i] > *values[*row.best]);
    if (ahead) row.best = i;
  }
  return row;
}

std::optional<double> top1_at(const std::vector<KnnScore>& scores, int k) {
  for (const KnnScore& score : scores) {
    if (score.k == k) return score.top1;
  }
  return std::nullopt;
}

std::vector<Row> number_rows(const std::vector<RunSummary>& runs) {
  std::vector<Row> rows;
  const auto add = [&](std::string label, auto value, const char* suffix, Better better) {
    std::vector<std::optional<double>> values;
    for (const RunSummary& run : runs) values.push_back(value(run));
    const bool any = std::any_of(values.begin(), values.end(), [](const auto& v) { return v.has_value(); });
    if (any) rows.push_back(number_row(std::move(label), values, suffix, better));
  };
  using Number = std::optional<double>;
  add(
      "epochs", [](const RunSummary& r) { return Number(static_cast<double>(r.epochs)); }, "", Better::neither);
  rows.push_back({"steps", {}});
  for (const RunSummary& run : runs) rows.back().values.push_back(fmt::format("{}", run.steps));
  add(
      "loss", [](const RunSummary& r) { return r.loss; }, "", Better::neither);
  add(
      "lowest loss", [](const RunSummary& r) { return r.lowest_loss; }, "", Better::neither);
  add(
      "teacher entropy", [](const RunSummary& r) { return r.entropy; }, "", Better::neither);
  add(
      "ln K", [](const RunSummary& r) { return r.most_entropy; }, "", Better::neither);
  std::set<int> ks;
  for (const RunSummary& run : runs) {
    for (const KnnScore& score : run.teacher) ks.insert(score.k);
  }
  for (const int k : ks) {
    add(
        fmt::format("teacher, {}-NN", k), [&](const RunSummary& r) { return top1_at(r.teacher, k); }, " %",
        Better::high);
    add(
        fmt::format("student, {}-NN", k), [&](const RunSummary& r) { return top1_at(r.student, k); }, " %",
        Better::high);
  }
  add(
      "teacher, at best", [](const RunSummary& r) { return r.best_teacher ? Number(r.best_teacher->top1) : Number(); },
      " %", Better::high);
  add(
      "untrained", [](const RunSummary& r) { return r.untrained; }, " %", Better::neither);
  add(
      "images a second", [](const RunSummary& r) { return r.images_per_second; }, "", Better::high);
  add(
      "waiting for data",
      [](const RunSummary& r) {
        return r.data_wait_share ? Number(std::round(1e4 * *r.data_wait_share) / 1e2) : Number();
      },
      " %", Better::low);
  return rows;
}

std::vector<SeriesPoint> knn_points(const RunHistory& run) {
  std::vector<SeriesPoint> points;
  for (const KnnLine& line : run.knn) {
    if (const auto score = RunHistory::best(line.teacher))
      points.push_back({static_cast<double>(line.epoch), score->top1, score->top1, score->top1});
  }
  return points;
}

/// Curves of all runs on one scale.
Row curve_row(std::string label, const std::vector<std::vector<SeriesPoint>>& curves, std::size_t columns) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const auto& curve : curves) {
    for (const SeriesPoint& point : curve) {
      low = std::min(low, point.mean);
      high = std::max(high, point.mean);
    }
  }
  Row row{std::move(label), {}};
  for (const auto& curve : curves) row.values.push_back(block_curve(curve, columns, low, high));
  return row;
}

void append_row(std::string& out, const Row& row, std::size_t cell_columns, bool color) {
  out += in_columns(printable(row.label), kLabelColumns);
  for (std::size_t i = 0; i < row.values.size(); ++i) {
    const bool best = row.best == i;
    std::string text = in_columns(printable(row.values[i]), cell_columns - 2);
    if (best && color) text = "\x1b[1;32m" + text + "\x1b[0m";
    out += "  " + text;
  }
  while (out.ends_with(' ')) out.pop_back();
  out += '\n';
}

nlohmann::ordered_json scores_json(const std::vector<KnnScore>& scores) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const KnnScore& score : scores) json.push_back({{"k", score.k}, {"top1", score.top1}, {"top5", score.top5}});
  return json;
}

}  // namespace

std::string block_curve(const std::vector<SeriesPoint>& points, std::size_t columns, double low, double high) {
  constexpr const char* kBlocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  std::string curve;
  const std::size_t width = std::min(columns, points.size());
  for (std::size_t i = 0; i < width; ++i) {
    const std::size_t begin = i * points.size() / width, end = (i + 1) * points.size() / width;
    double sum = 0;
    for (std::size_t j = begin; j < end; ++j) sum += points[j].mean;
    const double share = high > low ? (sum / static_cast<double>(end - begin) - low) / (high - low) : 0.5;
    curve += kBlocks[static_cast<std::size_t>(std::clamp(std::floor(8 * share), 0.0, 7.0))];
  }
  return curve;
}

std::string compare_runs(const std::vector<const RunHistory*>& runs, const ComparisonStyle& style) {
  std::vector<RunSummary> summaries;
  for (const RunHistory* run : runs) summaries.push_back(summarize(*run));
  const std::vector<std::string> names = run_names(runs);
  const auto differences = config_differences(runs);
  const std::size_t room = static_cast<std::size_t>(std::max(40, style.columns)) - kLabelColumns;
  const std::size_t at_once = std::clamp<std::size_t>(room / (kMinCellColumns + 2), 1, runs.size());
  const std::size_t cell_columns = std::min<std::size_t>(room / at_once, 42);

  std::vector<std::vector<SeriesPoint>> losses, accuracies;
  for (const RunHistory* run : runs) {
    losses.push_back(run->series("loss").points());
    accuracies.push_back(knn_points(*run));
  }
  std::vector<Row> rows = number_rows(summaries);
  rows.push_back(curve_row("loss, curve", losses, cell_columns - 2));
  if (std::any_of(accuracies.begin(), accuracies.end(), [](const auto& points) { return !points.empty(); }))
    rows.push_back(curve_row("k-NN, curve", accuracies, cell_columns - 2));
  for (const ConfigDifference& difference : differences) {
    rows.push_back({difference.key, difference.values});
    std::replace(rows.back().values.begin(), rows.back().values.end(), std::string(), std::string("–"));
  }

  std::string out;
  for (std::size_t begin = 0; begin < runs.size(); begin += at_once) {
    const std::size_t end = std::min(runs.size(), begin + at_once);
    const auto part = [&](const Row& row) {
      Row some{row.label,
               {row.values.begin() + static_cast<std::ptrdiff_t>(begin),
                row.values.begin() + static_cast<std::ptrdiff_t>(end)}};
      if (row.best && *row.best >= begin && *row.best < end) some.best = *row.best - begin;
      return some;
    };
    if (begin > 0) out += '\n';
    append_row(out, part({"run", names}), cell_columns, false);
    for (const Row& row : rows) append_row(out, part(row), cell_columns, style.color);
  }
  return out;
}

nlohmann::ordered_json comparison_json(const std::vector<const RunHistory*>& runs) {
  const auto number = [](const std::optional<double>& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
  };
  nlohmann::ordered_json json{{"runs", nlohmann::ordered_json::array()},
                              {"differences", nlohmann::ordered_json::object()}};
  const std::vector<std::string> names = run_names(runs);
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const RunSummary s = summarize(*runs[i]);
    json["runs"].push_back({{"name", names[i]},
                            {"folder", runs[i]->folder.string()},
                            {"epochs", s.epochs},
                            {"steps", s.steps},
                            {"loss", number(s.loss)},
                            {"lowest_loss", number(s.lowest_loss)},
                            {"entropy", number(s.entropy)},
                            {"ln_k", number(s.most_entropy)},
                            {"teacher", scores_json(s.teacher)},
                            {"student", scores_json(s.student)},
                            {"untrained", number(s.untrained)},
                            {"images_per_second", number(s.images_per_second)},
                            {"data_wait_share", number(s.data_wait_share)}});
  }
  for (const ConfigDifference& difference : config_differences(runs))
    json["differences"][difference.key] = difference.values;
  return json;
}

}  // namespace dino
