#pragma once

#include "engine/tape.h"

namespace dino {

/// Each row of x (R, C) divided by max(‖row‖, eps).
Tensor l2_normalize(Tape& tape, const Tensor& x, double eps = 1e-12);

}  // namespace dino
