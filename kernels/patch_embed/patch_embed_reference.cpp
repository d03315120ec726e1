#include "kernels/patch_embed/patch_embed.h"

namespace dino::reference {
namespace {

void put(const Array& array, std::int64_t i, double value, GradientMode mode) {
  if (mode == GradientMode::ignore) return;
  store_double(array, i, mode == GradientMode::accumulate ? load_double(array, i) + value : value);
}

}  // namespace

void patchify(const Patchify& args) {
  const bool pixels = args.images.dtype() == DType::uint8;
  const std::int64_t height = args.images.extent(pixels ? 1 : 2);
  const std::int64_t width = args.images.extent(pixels ? 2 : 3);
  const std::int64_t p = args.patch_px;
  for (std::int64_t n = 0; n < args.images.extent(0); ++n) {
    for (std::int64_t c = 0; c < 3; ++c) {
      for (std::int64_t y = 0; y < height; ++y) {
        for (std::int64_t x = 0; x < width; ++x) {
          const auto channel = static_cast<std::size_t>(c);
          const double value = pixels
                                   ? (args.images.as<std::uint8_t>()[((n * height + y) * width + x) * 3 + c] / 255.0 -
                                      args.mean[channel]) /
                                         args.std[channel]
                                   : load_double(args.images, ((n * 3 + c) * height + y) * width + x);
          const std::int64_t row = (n * (height / p) + y / p) * (width / p) + x / p;
          store_double(args.patches, ((row * 3 + c) * p + y % p) * p + x % p, value);
        }
      }
    }
  }
}

void assemble_tokens(const AssembleTokens& args) {
  const std::int64_t length = args.positions.extent(0);
  const std::int64_t width = args.positions.extent(1);
  for (std::int64_t s = 0; s < args.count; ++s) {
    for (std::int64_t n = 0; n < length; ++n) {
      for (std::int64_t c = 0; c < width; ++c) {
        const double token =
            n == 0 ? load_double(args.cls, c) : load_double(args.embedded, (s * (length - 1) + n - 1) * width + c);
        store_double(args.tokens, (s * length + n) * width + c, token + load_double(args.positions, n * width + c));
      }
    }
  }
}

void assemble_tokens_backward(const AssembleTokensBackward& args) {
  const std::int64_t length = args.d_tokens.extent(0) / args.count;
  const std::int64_t width = args.d_tokens.extent(1);
  for (std::int64_t n = 0; n < length; ++n) {
    for (std::int64_t c = 0; c < width; ++c) {
      double sum = 0;
      for (std::int64_t s = 0; s < args.count; ++s) {
        const double d = load_double(args.d_tokens, (s * length + n) * width + c);
        sum += d;
        if (n > 0) put(args.d_embedded, (s * (length - 1) + n - 1) * width + c, d, args.embedded_mode);
      }
      put(args.d_positions, n * width + c, sum, args.positions_mode);
      if (n == 0) put(args.d_cls, c, sum, args.cls_mode);
    }
  }
}

}  // namespace dino::reference
