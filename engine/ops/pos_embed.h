#pragma once

#include "engine/tape.h"

namespace dino {

/// The position embedding (1 + M·M, C) fp32 for a grid of rows × columns patches: (1 + rows·columns, C) fp32. Bicubic
/// with a = -0.75, half-pixel centres, no antialias, scale factor (n + 0.1) / M per axis; the first row is copied; the
/// same grid is returned as it is (official vision_transformer.py:174-194). Any shape with (1 + M·M)·C elements and
/// last dimension C is taken.
Tensor resize_pos_embed(Tape& tape, const Tensor& positions, int rows, int columns);

}  // namespace dino
