#pragma once

#include "kernels/common/array.h"
#include "kernels/common/gradient_mode.h"
#include "kernels/common/operation.h"

namespace dino {

/// y = x / max(‖x‖, eps) per row, as PyTorch's functional.normalize.
/// Traffic: reads x, writes y; the row is read again from cache.
/// Numerics: fp32; norms between 1e-18 and 1e18.
struct L2Normalize {
  ConstArray x;  // (R, C) float32 or bfloat16
  Array y;       // (R, C), element type of x
  double eps = 1e-12;
};
DINO_OPERATION(l2_normalize, L2Normalize)

/// dx = (dy - ŷ (ŷ · dy)) / ‖x‖ per row, with ŷ = x / ‖x‖; dy / eps where ‖x‖ < eps. The norm is computed anew: cheaper
/// than keeping it.
/// Traffic: reads x and dy, writes dx.
struct L2NormalizeBackward {
  ConstArray x;   // (R, C) float32 or bfloat16
  ConstArray dy;  // (R, C), element type of x
  Array dx;       // (R, C), element type of x
  double eps = 1e-12;
  GradientMode mode = GradientMode::ignore;
};
DINO_OPERATION(l2_normalize_backward, L2NormalizeBackward)

/// Throw Error unless types and shapes are as declared above.
void check_l2_normalize(const L2Normalize& args);
void check_l2_normalize(const L2NormalizeBackward& args);

}  // namespace dino
