#pragma once

#include "engine/tape.h"

namespace dino {

/// y = x · weightᵀ + bias: (T, I) with (O, I) and (O) gives (T, O), in x's element type. `weight` has x's element type,
/// `bias` is fp32 and may be empty; so are their gradients. Sums run in fp32.
Tensor linear(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias = {});

/// gelu(x · weightᵀ + bias), exact (erf). Keeps the value before the activation for backward.
Tensor linear_gelu(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias = {});

}  // namespace dino
