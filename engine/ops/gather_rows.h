#pragma once

#include "engine/tape.h"

namespace dino {

/// Rows of x (T, C) chosen by `rows` (R) int32, each at most once: (R, C).
Tensor gather_rows(Tape& tape, const Tensor& x, const Tensor& rows);

}  // namespace dino
