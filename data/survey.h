#pragma once

#include "data/dataset.h"

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace dino {

/// Smallest value, 5 %, median, 95 % and largest.
struct Spread {
  int least = 0, low = 0, median = 0, high = 0, most = 0;
};

/// What a look at a data set has shown. All but the first two groups is of the pictures that were looked at.
struct DataSummary {
  std::int64_t pictures = 0;       // to train on
  std::int64_t test_pictures = 0;  // of the val or test split; 0 where there is none

  std::int64_t classes = 0;  // 0: no labels
  std::int64_t smallest_class = 0, largest_class = 0;

  std::int64_t looked_at = 0;  // decoded or tried to be
  std::int64_t broken = 0;
  std::string broken_example;  // its name and what is wrong; printable()
  Spread short_side_px, long_side_px;
  double grey_share = 0;                     // pictures without colour
  std::array<double, 3> mean{0, 0, 0};       // of red, green and blue, 0 to 1
  std::array<double, 3> deviation{0, 0, 0};  // standard deviation, over all pixels
  std::int64_t near_copies = 0;              // pictures that look like an earlier one
  std::string near_copy_example;             // two names; printable()

  double broken_share() const {
    return looked_at > 0 ? static_cast<double>(broken) / static_cast<double>(looked_at) : 0;
  }
};

struct SurveyOptions {
  std::int64_t most_pictures = 2000;  // evenly spread over the data set
  double most_seconds = 15;           // then those that were reached must do, but 64 at least
  int threads = 0;                    // that decode; 0: one per processor
};

/// Told now and then how many of how many pictures were looked at.
using SurveyProgress = std::function<void(std::int64_t done, std::int64_t total)>;

/// Looks at a data set; `test` is its held-out split, or null. Pictures are near copies when the 64 signs of the
/// differences between neighbours on an 8 × 9 grid of grey means are the same (but a picture without any structure is
/// none's copy). Throws what `progress` throws.
DataSummary survey(const Dataset& images, const Dataset* test, const SurveyOptions& options = {},
                   const SurveyProgress& progress = {});

}  // namespace dino
