#include "evaluate/few_shot.h"

#include "engine/random.h"
#include "kernels/common/error.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace dino {

FewShot draw_few_shot(std::span<const std::int32_t> labels, int shots, std::uint64_t seed) {
  require(shots >= 1, "few shot", "the number of images of each class must be at least 1; got {}", shots);
  std::map<std::int32_t, std::vector<std::int64_t>> rows_of;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    require(labels[i] >= 0, "few shot", "image {} has no class", i);
    rows_of[labels[i]].push_back(static_cast<std::int64_t>(i));
  }
  FewShot drawn;
  const auto wanted = static_cast<std::size_t>(shots);
  for (auto& [label, rows] : rows_of) {
    if (rows.size() < wanted) ++drawn.short_classes;
    Random random(seed, RandomStream::few_shot, 0, static_cast<std::uint64_t>(label));
    // The beginning of a random permutation.
    for (std::size_t i = 0; i < std::min(wanted, rows.size()); ++i) {
      std::swap(rows[i], rows[i + random.below(static_cast<std::uint32_t>(rows.size() - i))]);
      drawn.rows.push_back(rows[i]);
    }
  }
  std::sort(drawn.rows.begin(), drawn.rows.end());
  return drawn;
}

MeanDeviation mean_deviation(std::span<const double> values) {
  require(!values.empty(), "few shot", "there is nothing to average");
  MeanDeviation result;
  for (const double value : values) result.mean += value / static_cast<double>(values.size());
  double square = 0;
  for (const double value : values) square += (value - result.mean) * (value - result.mean);
  if (values.size() > 1) result.deviation = std::sqrt(square / static_cast<double>(values.size() - 1));
  return result;
}

}  // namespace dino
