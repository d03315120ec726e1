#include "visualize/report/run_summary.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace dino {
namespace {

std::optional<double> recent(const Series& series) {
  return series.empty() ? std::nullopt : std::optional(series.recent());
}

}  // namespace

RunSummary summarize(const RunHistory& run) {
  RunSummary summary;
  summary.name = run.name;
  summary.steps = run.last_step + 1;
  // An epoch is done when the next has begun, or when its last step is there.
  const bool whole =
      run.steps_per_epoch > 0 && std::fmod(static_cast<double>(run.last_step + 1), run.steps_per_epoch) == 0;
  summary.epochs = std::max<std::int64_t>(0, run.last_epoch + (whole ? 1 : 0));
  summary.wanted_epochs = run.config_number("epochs");
  const Series& loss = run.series("loss");
  summary.loss = recent(loss);
  for (const SeriesPoint& point : loss.points())
    summary.lowest_loss = std::min(summary.lowest_loss.value_or(point.mean), point.mean);
  summary.entropy = recent(run.series("entropy"));
  if (const auto prototypes = run.config_number("out_dim"); prototypes && *prototypes >= 2)
    summary.most_entropy = std::log(*prototypes);
  summary.images_per_second = recent(run.series("images_per_second"));
  summary.data_wait_share = recent(run.series("data_wait_share"));
  for (const KnnLine& line : run.knn) {
    const auto best = RunHistory::best(line.teacher);
    if (!best) continue;
    if (line.epoch < 0) {
      summary.untrained = best->top1;
      continue;
    }
    summary.teacher = line.teacher;
    summary.student = line.student;
    if (!summary.best_teacher || best->top1 > summary.best_teacher->top1) summary.best_teacher = best;
  }
  return summary;
}

std::vector<std::string> run_names(const std::vector<const RunHistory*>& runs) {
  std::multiset<std::string> folders;
  for (const RunHistory* run : runs) folders.insert(run->name);
  std::vector<std::string> names;
  for (const RunHistory* run : runs) {
    const auto parent = std::filesystem::absolute(run->folder / ".").lexically_normal().parent_path().parent_path();
    names.push_back(folders.count(run->name) > 1 ? parent.filename().string() + "/" + run->name : run->name);
  }
  return names;
}

std::vector<ConfigDifference> config_differences(const std::vector<const RunHistory*>& runs) {
  std::vector<ConfigDifference> differences;
  std::set<std::string> seen{"output_dir"};
  for (const RunHistory* run : runs) {
    for (const ConfigEntry& entry : run->config) {
      if (!seen.insert(entry.key).second) continue;
      ConfigDifference difference{entry.section, entry.key, entry.default_value, {}};
      for (const RunHistory* other : runs) {
        const auto at = std::find_if(other->config.begin(), other->config.end(),
                                     [&](const ConfigEntry& theirs) { return theirs.key == entry.key; });
        difference.values.push_back(at == other->config.end() ? "" : at->value);
      }
      const bool alike = std::all_of(difference.values.begin(), difference.values.end(),
                                     [&](const std::string& value) { return value == difference.values[0]; });
      if (!alike) differences.push_back(std::move(difference));
    }
  }
  return differences;
}

}  // namespace dino
