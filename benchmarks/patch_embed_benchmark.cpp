// Cutting the global crops into patches, and their tokens with class token and positions.
#include "kernels/patch_embed/patch_embed.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/textbook/patch_embed.h"
#include "benchmarks/textbook/textbook.h"

#include <fmt/format.h>

namespace dino::bench {
namespace {

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
  textbook::add(bench, prepared, textbook::PatchifySteps{args});
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
  textbook::add(bench, prepared, textbook::AssembleTokensSteps{args});
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
  textbook::add(bench, prepared, textbook::AssembleTokensBackwardSteps{args});
  return prepared;
}

const Registered kPatchify{{.operation = "patch_embed", .pass = "patchify", .prepare = prepare_patchify}};
const Registered kTokens{{.operation = "patch_embed", .pass = "tokens", .prepare = prepare_tokens}};
const Registered kBackward{{.operation = "patch_embed", .pass = "tokens backward", .prepare = prepare_tokens_backward}};

}  // namespace
}  // namespace dino::bench
