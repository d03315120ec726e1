#pragma once

#include "kernels/common/array.h"
#include "kernels/common/gradient_mode.h"
#include "kernels/common/operation.h"

namespace dino {

/// w = g · v / ‖v‖ per row (Salimans & Kingma 2016, arXiv 1602.07868), cast to w's element type on the way.
/// Traffic: reads v, writes w: 96 MiB for K = 65536, D = 256 in bf16.
/// Numerics: fp32; norms between 1e-18 and 1e18. A row of zeros gives NaN, as in PyTorch.
struct WeightNorm {
  ConstArray v;  // (K, D) float32
  ConstArray g;  // K elements, float32
  Array w;       // (K, D) float32 or bfloat16
};
DINO_OPERATION(weight_norm, WeightNorm)

/// dv = g / ‖v‖ · (dw - v̂ (v̂ · dw)) and dg = v̂ · dw per row, with v̂ = v / ‖v‖. The norm is computed anew.
/// Traffic: reads v and dw, writes dv.
struct WeightNormBackward {
  ConstArray v;   // (K, D) float32
  ConstArray g;   // K elements, float32
  ConstArray dw;  // (K, D) float32 or bfloat16
  Array dv;       // (K, D) float32
  Array dg;       // K elements, float32
  GradientMode dv_mode = GradientMode::ignore;
  GradientMode dg_mode = GradientMode::ignore;
};
DINO_OPERATION(weight_norm_backward, WeightNormBackward)

/// Throw Error unless types and shapes are as declared above.
void check_weight_norm(const WeightNorm& args);
void check_weight_norm(const WeightNormBackward& args);

}  // namespace dino
