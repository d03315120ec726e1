#pragma once

#include "kernels/common/array.h"
#include "kernels/common/gradient_mode.h"
#include "kernels/common/operation.h"

namespace dino {

/// sum = x + branch_scale[row_sequence[t]] · branch, and the LayerNorm of each row of sum:
///   normalized = (sum − mean) · rstd · gamma + beta,   rstd = 1 / √(variance + eps)     (Ba et al., arXiv 1607.06450)
/// with the biased variance. Without a branch, sum is x itself and is not written. `x`, `branch`, `sum` and
/// `normalized` have one element type, float32 or bfloat16; statistics are those of the sum as stored, and are computed
/// in two passes over a row in fp32. Rows are independent, so results do not depend on the number of threads. Traffic:
/// x and branch are read once, sum and normalized written once; about 8 flops an element, bound by memory.
struct LayerNormForward {
  ConstArray x;             // (T, C)
  ConstArray branch;        // (T, C), or empty
  ConstArray branch_scale;  // (S) fp32, or empty for 1
  ConstArray row_sequence;  // (T) int32 in [0, S); with branch_scale only
  ConstArray gamma;         // (C) fp32
  ConstArray beta;          // (C) fp32
  double eps = 1e-6;
  Array sum;         // (T, C), with a branch only; may alias x or branch
  Array normalized;  // (T, C); must not overlap the other arrays
  Array mean;        // (T) fp32, or empty
  Array rstd;        // (T) fp32, or empty
};
DINO_OPERATION(layer_norm_forward, LayerNormForward)

/// Gradients of LayerNormForward. With n = (sum − mean) · rstd and g = d_normalized · gamma,
///   total    = rstd · (g − mean(g) − n · mean(g · n)) + d_sum
///   dx       = total
///   d_branch = branch_scale[row_sequence[t]] · total
///   dgamma   = Σ_t d_normalized · n,   dbeta = Σ_t d_normalized
/// dx may alias d_sum. When d_branch has dx's address, it accumulates onto what dx was given. dgamma and dbeta are
/// summed in fp32 over blocks of rows whose bounds depend on T only, so all results are the same for any number of
/// threads. Traffic: d_normalized, sum and d_sum are read once, dx and d_branch written once (and read, to accumulate).
struct LayerNormBackward {
  ConstArray sum;           // (T, C): what was normalised
  ConstArray mean;          // (T) fp32
  ConstArray rstd;          // (T) fp32
  ConstArray gamma;         // (C) fp32
  ConstArray d_normalized;  // (T, C), or empty: then total is d_sum, and dgamma and dbeta must be ignored
  ConstArray d_sum;         // (T, C): the gradient that reached sum from elsewhere; or empty
  ConstArray branch_scale;  // (S) fp32, or empty for 1
  ConstArray row_sequence;  // (T) int32; with branch_scale only
  Array dx;                 // (T, C)
  GradientMode dx_mode = GradientMode::ignore;
  Array d_branch;  // (T, C)
  GradientMode d_branch_mode = GradientMode::ignore;
  Array dgamma;  // (C) fp32
  GradientMode dgamma_mode = GradientMode::ignore;
  Array dbeta;  // (C) fp32
  GradientMode dbeta_mode = GradientMode::ignore;
};
DINO_OPERATION(layer_norm_backward, LayerNormBackward)

/// Throw Error unless types and shapes are as declared above.
void check_layer_norm(const LayerNormForward& args);
void check_layer_norm(const LayerNormBackward& args);

}  // namespace dino
