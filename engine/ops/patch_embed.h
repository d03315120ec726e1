#pragma once

#include "engine/ops/sequences.h"
#include "engine/tape.h"

#include <array>
#include <vector>

namespace dino {

/// Mean and standard deviation per channel for 8-bit pixels: (pixel / 255 - mean) / std.
struct PixelNormalization {
  std::array<float, 3> mean{0.485F, 0.456F, 0.406F};
  std::array<float, 3> std{0.229F, 0.224F, 0.225F};
};

/// Cuts images into patches: rows (image, patch row, patch column), columns (channel, y, x) as in a flattened
/// convolution weight. `images` is uint8 (n, H, W, 3), normalised on the way, or fp32 (n, 3, H, W), taken as it is; H
/// and W are multiples of the patch size. Writes rows [first_row, first_row + n·H/P·W/P) of `patches` (rows, 3·P·P),
/// fp32 or bf16.
void patchify(Tape& tape, const Tensor& images, int patch_px, const PixelNormalization& normalization,
              const Tensor& patches, std::int64_t first_row);

/// A run of equally long sequences: crops of one size.
struct TokenGroup {
  std::int64_t count = 0;  // sequences
  Tensor positions;        // (1 + N, C) fp32: position embedding at this size, CLS first
};

/// Puts CLS in front of each image's embedded patches (T - S, C) and adds the position embeddings: (T, C). `cls` is (C)
/// fp32 or of any shape with C elements.
Tensor assemble_tokens(Tape& tape, const Tensor& embedded, const Tensor& cls, const std::vector<TokenGroup>& groups);

}  // namespace dino
