// Cutting the global crops into patches, and their tokens with class token and positions.
#include "kernels/patch_embed/patch_embed.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/textbook.h"

#include <fmt/format.h>

namespace dino::bench {
namespace {

using textbook::get;
using textbook::put;

struct Sizes {
  explicit Sizes(const Workload& w)
      : images(w.images * w.globals), patches(w.global_tokens() - 1), width(w.width), patch_px(w.patch_px) {}
  std::int64_t images, patches, width, patch_px;
};

Prepared prepare_patchify(Bench& bench) {
  const Sizes s(bench.workload());
  const std::int64_t px = bench.workload().global_px;
  const Array images = bench.values(DType::uint8, {s.images, px, px, 3});
  const Array patches = bench.zeros(bench.dtype(), {s.images * s.patches, 3 * s.patch_px * s.patch_px});
  const Patchify args{.images = images,
                      .patches = patches,
                      .patch_px = s.patch_px,
                      .mean = {0.485F, 0.456F, 0.406F},
                      .std = {0.229F, 0.224F, 0.225F}};
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} x {} x {} px", s.images, px, px),
                    .run = [=, &stream] { patchify(args, stream); },
                    .outputs = {patches}};
  if (!bench.on_cpu()) return prepared;
  const auto textbook = [=] {
    textbook::dispatch(patches, [=](auto t) {
      using T = decltype(t);
      const auto* from = images.as<std::uint8_t>();
      T* to = patches.as<T>();
      const std::int64_t p = s.patch_px, grid = px / p;
      textbook::for_rows(s.images * s.patches, [=](std::int64_t r) {
        const std::int64_t image = r / (grid * grid), row = r / grid % grid, column = r % grid;
        for (std::int64_t c = 0; c < 3; ++c) {
          for (std::int64_t y = 0; y < p; ++y) {
            for (std::int64_t x = 0; x < p; ++x) {
              const float pixel = from[((image * px + row * p + y) * px + column * p + x) * 3 + c];
              const auto channel = static_cast<std::size_t>(c);
              to[r * 3 * p * p + (c * p + y) * p + x] = put<T>((pixel / 255 - args.mean[channel]) / args.std[channel]);
            }
          }
        }
      });
    });
  };
  prepared.references = {{"textbook", textbook}};
  return prepared;
}

Prepared prepare_tokens(Bench& bench) {
  const Sizes s(bench.workload());
  const Array embedded = bench.values({s.images * s.patches, s.width});
  const Array cls = bench.values(DType::float32, {s.width});
  const Array positions = bench.values(DType::float32, {s.patches + 1, s.width});
  const Array tokens = bench.zeros(bench.dtype(), {s.images * (s.patches + 1), s.width});
  const AssembleTokens args{
      .embedded = embedded, .cls = cls, .positions = positions, .tokens = tokens, .count = s.images};
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} x {}", s.images * (s.patches + 1), s.width),
                    .run = [=, &stream] { assemble_tokens(args, stream); },
                    .outputs = {tokens}};
  if (!bench.on_cpu()) return prepared;
  const auto textbook = [=] {
    textbook::dispatch(tokens, [=](auto t) {
      using T = decltype(t);
      const T* from = embedded.as<T>();
      const float *first = cls.as<float>(), *position = positions.as<float>();
      T* to = tokens.as<T>();
      textbook::for_rows(s.images * (s.patches + 1), [=](std::int64_t r) {
        const std::int64_t image = r / (s.patches + 1), token = r % (s.patches + 1);
        for (std::int64_t c = 0; c < s.width; ++c) {
          const float value = token == 0 ? first[c] : get(from[(image * s.patches + token - 1) * s.width + c]);
          to[r * s.width + c] = put<T>(value + position[token * s.width + c]);
        }
      });
    });
  };
  prepared.references = {{"textbook", textbook}};
  return prepared;
}

Prepared prepare_tokens_backward(Bench& bench) {
  const Sizes s(bench.workload());
  const Array d_tokens = bench.values({s.images * (s.patches + 1), s.width});
  const Array d_embedded = bench.zeros(bench.dtype(), {s.images * s.patches, s.width});
  const Array d_cls = bench.zeros(DType::float32, {s.width});
  const Array d_positions = bench.zeros(DType::float32, {s.patches + 1, s.width});
  constexpr auto kOverwrite = GradientMode::overwrite;
  const AssembleTokensBackward args{.d_tokens = d_tokens,
                                    .d_embedded = d_embedded,
                                    .d_cls = d_cls,
                                    .d_positions = d_positions,
                                    .count = s.images,
                                    .embedded_mode = kOverwrite,
                                    .cls_mode = kOverwrite,
                                    .positions_mode = kOverwrite};
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} x {}", s.images * (s.patches + 1), s.width),
                    .run = [=, &stream] { assemble_tokens_backward(args, stream); },
                    .outputs = {d_embedded, d_cls, d_positions}};
  if (!bench.on_cpu()) return prepared;
  const auto textbook = [=] {
    textbook::dispatch(d_tokens, [=](auto t) {
      using T = decltype(t);
      const T* from = d_tokens.as<T>();
      T* to = d_embedded.as<T>();
      float *first = d_cls.as<float>(), *position = d_positions.as<float>();
      textbook::for_rows(s.images * s.patches, [=](std::int64_t r) {
        const std::int64_t image = r / s.patches, token = 1 + r % s.patches;
        for (std::int64_t c = 0; c < s.width; ++c)
          to[r * s.width + c] = from[(image * (s.patches + 1) + token) * s.width + c];
      });
      textbook::for_rows(s.patches + 1, [=](std::int64_t token) {
        for (std::int64_t c = 0; c < s.width; ++c) {
          float sum = 0;
          for (std::int64_t i = 0; i < s.images; ++i) sum += get(from[(i * (s.patches + 1) + token) * s.width + c]);
          position[token * s.width + c] = sum;
        }
      });
      textbook::for_rows(s.width, [=](std::int64_t c) { first[c] = position[c]; });
    });
  };
  prepared.references = {{"textbook", textbook}};
  return prepared;
}

const Registered kPatchify{{.operation = "patch_embed", .pass = "patchify", .prepare = prepare_patchify}};
const Registered kTokens{{.operation = "patch_embed", .pass = "tokens", .prepare = prepare_tokens}};
const Registered kBackward{{.operation = "patch_embed", .pass = "tokens backward", .prepare = prepare_tokens_backward}};

}  // namespace
}  // namespace dino::bench
