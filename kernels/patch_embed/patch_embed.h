#pragma once

#include "kernels/common/array.h"
#include "kernels/common/gradient_mode.h"
#include "kernels/common/operation.h"

#include <array>

namespace dino {

/// Cuts images into patches: row (image, patch row, patch column), column (channel, y, x), the order of a flattened
/// convolution weight (3, P, P). Together with a GEMM this is the patch embedding (official
/// vision_transformer.py:120-133). 8-bit pixels become (pixel / 255 - mean) / std on the way. Traffic: every pixel is
/// read once, every value written once: B·H·W·(3 + 3·4) bytes for uint8 to fp32. Numerics: 8-bit pixels as one fused
/// multiply-add in fp32.
struct Patchify {
  ConstArray images;                   // uint8 (B, H, W, 3) or float32 (B, 3, H, W); H and W multiples of P
  Array patches;                       // (B·H/P·W/P, 3·P·P) float32 or bfloat16
  std::int64_t patch_px = 16;          // P
  std::array<float, 3> mean{0, 0, 0};  // of 8-bit pixels only
  std::array<float, 3> std{1, 1, 1};
};
DINO_OPERATION(patchify, Patchify)

/// Tokens of `count` = S equally long sequences: row 0 of each is cls + positions[0], row n its embedded patch n - 1
/// plus positions[n] (official vision_transformer.py:196-207). Traffic: reads embedded, writes tokens; cls and
/// positions stay in cache.
struct AssembleTokens {
  ConstArray embedded;   // (S·N, C), element type of tokens
  ConstArray cls;        // C elements, float32
  ConstArray positions;  // (1 + N, C) float32
  Array tokens;          // (S·(1 + N), C) float32 or bfloat16
  std::int64_t count = 0;
};
DINO_OPERATION(assemble_tokens, AssembleTokens)

/// d_embedded: the rows without CLS. d_positions: the sum over the sequences. d_cls: the sum over the CLS rows.
/// Traffic: reads d_tokens once, writes d_embedded.
/// Numerics: sums in fp32, in an order that depends on the sizes alone.
struct AssembleTokensBackward {
  ConstArray d_tokens;  // (S·(1 + N), C) float32 or bfloat16
  Array d_embedded;     // (S·N, C), element type of d_tokens
  Array d_cls;          // C elements, float32
  Array d_positions;    // (1 + N, C) float32
  std::int64_t count = 0;
  GradientMode embedded_mode = GradientMode::ignore;
  GradientMode cls_mode = GradientMode::ignore;
  GradientMode positions_mode = GradientMode::ignore;
};
DINO_OPERATION(assemble_tokens_backward, AssembleTokensBackward)

/// Throw Error unless types and shapes are as declared above.
void check_patch_embed(const Patchify& args);
void check_patch_embed(const AssembleTokens& args);
void check_patch_embed(const AssembleTokensBackward& args);

}  // namespace dino
