#pragma once

#include "kernels/common/array.h"
#include "kernels/common/gradient_mode.h"
#include "kernels/common/operation.h"

namespace dino {

/// Batch norm of x (R, C) over the rows of all ranks, in training mode, cut where the ranks exchange sums:
///
///     batch_norm_sums → all-reduce → batch_norm_squares → all-reduce → batch_norm_forward
///     batch_norm_backward_sums → all-reduce → batch_norm_backward
///
/// The squares are those of the distances from the mean over all ranks (two passes), so nothing cancels.
/// Traffic: forward reads x three times and writes y; backward reads x and dy twice and writes dx.
/// Numerics: fp32; rows are summed in blocks whose bounds depend on R alone, the blocks one after the other, for any
/// number of threads.
/// Source: Ioffe & Szegedy 2015 (arXiv 1502.03167); PyTorch's SyncBatchNorm.

/// sums[c] = Σ over rows of x; sums[C] = R, exact up to 2^24.
struct BatchNormSums {
  ConstArray x;  // (R, C) float32 or bfloat16
  Array sums;    // (C + 1) float32
};
DINO_OPERATION(batch_norm_sums, BatchNormSums)

/// squares[c] = Σ over rows of (x - sums[c] / sums[C])².
struct BatchNormSquares {
  ConstArray x;     // (R, C) float32 or bfloat16
  ConstArray sums;  // (C + 1) float32, of all ranks
  Array squares;    // (C) float32
};
DINO_OPERATION(batch_norm_squares, BatchNormSquares)

/// y = gamma · (x - mean) · inverse_std + beta, with the biased variance squares / n and eps inside the root.
struct BatchNormForward {
  ConstArray x;        // (R, C) float32 or bfloat16
  ConstArray sums;     // (C + 1) float32, of all ranks
  ConstArray squares;  // (C) float32, of all ranks
  ConstArray gamma;    // (C) float32
  ConstArray beta;     // (C) float32
  double eps = 1e-5;
  Array y;            // (R, C), element type of x
  Array mean;         // (C) float32
  Array inverse_std;  // (C) float32
  Array statistics;   // (2, C) float32: mean and unbiased variance (of one row: 0); or empty
};
DINO_OPERATION(batch_norm_forward, BatchNormForward)

/// sums[0] = Σ dy and sums[1] = Σ dy · x̂ over the rows at hand, with x̂ = (x - mean) · inverse_std. They are this rank's
/// d_beta and d_gamma as well.
struct BatchNormBackwardSums {
  ConstArray x;            // (R, C) float32 or bfloat16
  ConstArray dy;           // (R, C), element type of x
  ConstArray mean;         // (C) float32
  ConstArray inverse_std;  // (C) float32
  Array sums;              // (2, C) float32
  Array d_gamma;           // (C) float32
  Array d_beta;            // (C) float32
  GradientMode gamma_mode = GradientMode::ignore;
  GradientMode beta_mode = GradientMode::ignore;
};
DINO_OPERATION(batch_norm_backward_sums, BatchNormBackwardSums)

/// dx = gamma · inverse_std · (dy - sums[0] / n - x̂ · sums[1] / n).
struct BatchNormBackward {
  ConstArray x;             // (R, C) float32 or bfloat16
  ConstArray dy;            // (R, C), element type of x
  ConstArray mean;          // (C) float32
  ConstArray inverse_std;   // (C) float32
  ConstArray gamma;         // (C) float32
  ConstArray sums;          // (2, C) float32, of all ranks
  ConstArray forward_sums;  // (C + 1) float32, of all ranks; the last is n
  Array dx;                 // (R, C), element type of x
  GradientMode mode = GradientMode::ignore;
};
DINO_OPERATION(batch_norm_backward, BatchNormBackward)

/// Throw Error unless types and shapes are as declared above.
void check_batch_norm(const BatchNormSums& args);
void check_batch_norm(const BatchNormSquares& args);
void check_batch_norm(const BatchNormForward& args);
void check_batch_norm(const BatchNormBackwardSums& args);
void check_batch_norm(const BatchNormBackward& args);

}  // namespace dino
