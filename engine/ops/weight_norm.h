#pragma once

#include "engine/tape.h"

namespace dino {

/// w = g · v / ‖v‖ per row: v (K, D) fp32, g (K, 1) fp32 give w (K, D) in `compute_type`.
Tensor weight_norm(Tape& tape, const Tensor& v, const Tensor& g, DType compute_type);

}  // namespace dino
