#pragma once

#include "engine/tape.h"

namespace dino {

/// gelu(x), exact (erf), where no GEMM precedes it; elsewhere linear_gelu is faster.
Tensor gelu(Tape& tape, const Tensor& x);

}  // namespace dino
