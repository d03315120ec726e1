#pragma once

#include "kernels/common/array.h"
#include "kernels/common/gradient_mode.h"
#include "kernels/common/operation.h"

namespace dino {

/// y = op(a)·op(b) [+ bias] [then GELU], or y += the same without GELU; op is the matrix or its transpose.
/// Flops: 2·M·N·K. Traffic, once everything fits a cache level: a, b and y once.
/// Numerics: products and sums in fp32, one rounding to y's type. The GELU is the exact one of kernels/gelu. The sum
/// over K is blocked as the library likes; for one machine and number of threads it is the same in every call.
struct Matmul {
  ConstArray a;          // (M, K), or (K, M) with transpose_a; float32 or bfloat16
  ConstArray b;          // (K, N), or (N, K) with transpose_b; a's type
  ConstArray bias = {};  // (N) fp32, or none
  Array y;               // (M, N) float32 or bfloat16; must not overlap the others
  bool transpose_a = false;
  bool transpose_b = false;
  GradientMode mode = GradientMode::overwrite;
  bool gelu = false;         // needs overwrite
  Array preactivation = {};  // (M, N) in y's type: with gelu, receives the value before it where given
};
DINO_OPERATION(matmul, Matmul)

/// M, N and K of a product. Throws Error where types and shapes do not go together.
struct MatmulSize {
  std::int64_t m, n, k;
};
MatmulSize checked_size(const Matmul& args);

}  // namespace dino
