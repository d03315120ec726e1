#include "engine/ops/patch_embed.h"

#include "kernels/patch_embed/patch_embed.h"

namespace dino {

void patchify(Tape& tape, const Tensor& images, int patch_px, const PixelNormalization& normalization,
              const Tensor& patches, std::int64_t first_row) {
  require(images.shape().rank() == 4 && patch_px >= 1, "patchify", "images have four dimensions; got {}, patch {}",
          images.shape().to_string(), patch_px);
  const int height = images.dtype() == DType::uint8 ? 1 : 2;
  const std::int64_t rows =
      images.extent(0) * (images.extent(height) / patch_px) * (images.extent(height + 1) / patch_px);
  require(patches.shape().rank() == 2 && first_row >= 0 && first_row + rows <= patches.extent(0), "patchify",
          "rows {} to {} do not fit into patches; got {}", first_row, first_row + rows, patches.shape().to_string());
  patchify({.images = images.const_array(),
            .patches = patches.rows(first_row, first_row + rows).array(),
            .patch_px = patch_px,
            .mean = normalization.mean,
            .std = normalization.std},
           tape.stream());
}

Tensor assemble_tokens(Tape& tape, const Tensor& embedded, const Tensor& cls, const std::vector<TokenGroup>& groups) {
  require(embedded.shape().rank() == 2, "assemble_tokens", "embedded patches have shape (T - S, C); got {}",
          embedded.shape().to_string());
  const std::int64_t width = embedded.extent(1);
  std::int64_t rows = 0;
  std::int64_t sequences = 0;
  const Tensor* variable_positions = nullptr;
  for (const TokenGroup& group : groups) {
    rows += group.count * group.positions.extent(0);
    sequences += group.count;
    if (group.positions.requires_gradient()) variable_positions = &group.positions;
  }
  require(!groups.empty() && rows - sequences == embedded.extent(0), "assemble_tokens",
          "the groups have {} patches; got embedded {}", rows - sequences, embedded.shape().to_string());

  Tensor tokens = tape.output({rows, width}, embedded.dtype(), {&embedded, &cls, variable_positions});
  std::int64_t row = 0;
  std::int64_t patch = 0;
  for (const TokenGroup& group : groups) {
    if (group.count == 0) continue;
    const std::int64_t length = group.positions.extent(0);
    assemble_tokens({.embedded = embedded.rows(patch, patch + group.count * (length - 1)).const_array(),
                     .cls = cls.const_array(),
                     .positions = group.positions.const_array(),
                     .tokens = tokens.rows(row, row + group.count * length).array(),
                     .count = group.count},
                    tape.stream());
    row += group.count * length;
    patch += group.count * (length - 1);
  }

  tape.record("assemble_tokens", tokens, [embedded, cls, groups](Tape& tape, const Tensor& d_tokens) {
    const GradientTarget d_embedded = tape.gradient_target(embedded);
    std::int64_t row = 0;
    std::int64_t patch = 0;
    for (const TokenGroup& group : groups) {
      if (group.count == 0) continue;
      const std::int64_t length = group.positions.extent(0);
      const std::int64_t patches = group.count * (length - 1);
      // Asked for once per group: the second group then adds to what the first has written.
      const GradientTarget d_cls = tape.gradient_target(cls);
      const GradientTarget d_positions = tape.gradient_target(group.positions);
      assemble_tokens_backward(
          {.d_tokens = d_tokens.rows(row, row + group.count * length).const_array(),
           .d_embedded = d_embedded.tensor ? d_embedded.tensor.rows(patch, patch + patches).array() : Array(),
           .d_cls = d_cls.tensor.array(),
           .d_positions = d_positions.tensor.array(),
           .count = group.count,
           .embedded_mode = d_embedded.mode,
           .cls_mode = d_cls.mode,
           .positions_mode = d_positions.mode},
          tape.stream());
      row += group.count * length;
      patch += patches;
    }
  });
  return tokens;
}

}  // namespace dino
