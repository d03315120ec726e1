#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace dino {

/// Some rows of each class, drawn at random without replacement.
struct FewShot {
  std::vector<std::int64_t> rows;  // ascending
  int short_classes = 0;           // classes with fewer rows than asked for, all of which were taken
};

/// Draws `shots` rows of every class in `labels`. Depends on labels, shots and seed only; with the same seed, more
/// shots contain the fewer. Throws Error for negative labels.
FewShot draw_few_shot(std::span<const std::int32_t> labels, int shots, std::uint64_t seed);

/// Mean and standard deviation (of the sample, n - 1; 0 for one value).
struct MeanDeviation {
  double mean = 0;
  double deviation = 0;
};
MeanDeviation mean_deviation(std::span<const double> values);

}  // namespace dino
