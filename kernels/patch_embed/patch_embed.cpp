#include "kernels/patch_embed/patch_embed.h"

namespace dino {

void check_patch_embed(const Patchify& args) {
  constexpr std::string_view kWhere = "patchify";
  const Shape& shape = args.images.shape();
  const bool pixels = args.images.dtype() == DType::uint8;
  require(pixels || args.images.dtype() == DType::float32, kWhere, "images are uint8 or float32; got {}",
          name_of(args.images.dtype()));
  require(shape.rank() == 4 && shape[pixels ? 3 : 1] == 3, kWhere, "images have shape {}; got {}",
          pixels ? "(B, H, W, 3)" : "(B, 3, H, W)", shape.to_string());
  const std::int64_t height = shape[pixels ? 1 : 2], width = shape[pixels ? 2 : 3], p = args.patch_px;
  require(p >= 1 && p <= 256, kWhere, "patches have 1 to 256 pixels a side; got {}", p);
  require(height % p == 0 && width % p == 0, kWhere, "images of {} x {} pixels do not divide into patches of {}",
          height, width, p);
  require_array(args.patches, args.patches.dtype(), {shape[0] * (height / p) * (width / p), 3 * p * p}, kWhere,
                "patches");
}

void check_patch_embed(const AssembleTokens& args) {
  constexpr std::string_view kWhere = "assemble_tokens";
  require(args.positions.shape().rank() == 2 && args.positions.extent(0) >= 1, kWhere,
          "positions have shape (1 + N, C); got {}", args.positions.shape().to_string());
  const std::int64_t length = args.positions.extent(0), width = args.positions.extent(1);
  require_array(args.positions, DType::float32, {length, width}, kWhere, "positions");
  require_array(args.tokens, args.tokens.dtype(), {args.count * length, width}, kWhere, "tokens");
  require_array(args.embedded, args.tokens.dtype(), {args.count * (length - 1), width}, kWhere, "embedded");
  require(args.cls.dtype() == DType::float32 && args.cls.size() == width, kWhere,
          "cls has {} float32 elements; got {} {}", width, name_of(args.cls.dtype()), args.cls.shape().to_string());
}

void check_patch_embed(const AssembleTokensBackward& args) {
  constexpr std::string_view kWhere = "assemble_tokens_backward";
  require(args.d_tokens.shape().rank() == 2 && args.count >= 1 && args.d_tokens.extent(0) % args.count == 0, kWhere,
          "d_tokens has shape (S·(1 + N), C); got {} for S = {}", args.d_tokens.shape().to_string(), args.count);
  const std::int64_t length = args.d_tokens.extent(0) / args.count, width = args.d_tokens.extent(1);
  if (args.embedded_mode != GradientMode::ignore) {
    require_array(args.d_embedded, args.d_tokens.dtype(), {args.count * (length - 1), width}, kWhere, "d_embedded");
  }
  if (args.positions_mode != GradientMode::ignore) {
    require_array(args.d_positions, DType::float32, {length, width}, kWhere, "d_positions");
  }
  if (args.cls_mode != GradientMode::ignore) {
    require(args.d_cls.dtype() == DType::float32 && args.d_cls.size() == width, kWhere,
            "d_cls has {} float32 elements; got {} {}", width, name_of(args.d_cls.dtype()),
            args.d_cls.shape().to_string());
  }
}

}  // namespace dino
