#pragma once

#include "engine/ops/sequences.h"
#include "engine/tape.h"

namespace dino {

/// LayerNorm over the last dimension of x (T, C), eps inside the root. gamma, beta: (C) fp32.
Tensor layer_norm(Tape& tape, const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps);

/// residual (T, C) + branch_scale[sequence of the row] · branch (T, C), and its LayerNorm. Fused, as every block of a
/// pre-norm transformer needs both. `branch_scale` is (S) fp32, one factor per sequence (drop path: 0 or 1 / keep), or
/// empty for 1; it is no variable.
struct AddLayerNorm {
  Tensor sum;         // (T, C), x's element type
  Tensor normalized;  // (T, C), x's element type
};
AddLayerNorm add_layer_norm(Tape& tape, const Tensor& residual, const Tensor& branch, const Tensor& branch_scale,
                            const Sequences& sequences, const Tensor& gamma, const Tensor& beta, double eps);

}  // namespace dino
