#pragma once

#include "engine/context.h"

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace dino {

/// Pictures that resemble each other: chains count, so two members may be less alike than the threshold.
struct CopyGroup {
  std::vector<std::int64_t> rows;  // ascending, at least two
  std::vector<float> similarity;   // cosine of each to the first; 1 for the first itself
};

/// Groups of rows of (n, C) L2-normalised features that are connected by pairs with a cosine of at least `threshold`;
/// the largest group first, else by the first row. Work: n²·C flops on the context's device; memory grows with n only.
/// `progress` is called now and then with the rows done. Throws Error for a threshold outside (0, 1].
std::vector<CopyGroup> find_near_copies(Context& context, std::span<const float> features, std::int64_t width,
                                        double threshold, const std::function<void(std::int64_t)>& progress = {});

}  // namespace dino
