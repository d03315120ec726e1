#pragma once

#include "kernels/common/array.h"
#include "kernels/common/gradient_mode.h"
#include "kernels/common/operation.h"

namespace dino {

/// The position embedding of an M × M grid of patches at another grid: bicubic (a = -0.75), no antialias, half-pixel
/// centres, border pixels repeated; row 0 (CLS) is copied. Output row i looks at source (i + 0.5) · M / (rows + 0.1) -
/// 0.5: the scale factor (n + 0.1) / M moves the coordinates, as PyTorch's interpolate() does when it is given one and
/// recompute_scale_factor is off (official vision_transformer.py:174-194). Resizing M to M is no identity, therefore.
/// Traffic: 16 rows of `positions` per output row, from cache.
/// Numerics: coordinates and weights in double, sums in fp32.
struct ResizePosEmbed {
  ConstArray positions;  // (1 + M·M, C) float32
  Array resized;         // (1 + rows·columns, C) float32
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};
DINO_OPERATION(resize_pos_embed, ResizePosEmbed)

/// Transposed: each source position gathers from the output rows that looked at it, in a fixed order for any number of
/// threads.
struct ResizePosEmbedBackward {
  ConstArray d_resized;  // (1 + rows·columns, C) float32
  Array d_positions;     // (1 + M·M, C) float32
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  GradientMode mode = GradientMode::ignore;
};
DINO_OPERATION(resize_pos_embed_backward, ResizePosEmbedBackward)

/// The side M of the grid of positions. Throw Error unless types and shapes are as declared above.
std::int64_t check_pos_embed(const ResizePosEmbed& args);
std::int64_t check_pos_embed(const ResizePosEmbedBackward& args);

}  // namespace dino
