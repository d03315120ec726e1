#include "kernels/patch_embed/patch_embed.h"

#include "benchmarks/buffers.h"

#include <cstring>

using namespace dino;
using namespace dino::bench;

namespace {

constexpr std::int64_t kImages = 32;
constexpr std::int64_t kSize = 224;
constexpr std::int64_t kPatches = 196;
constexpr std::int64_t kWidth = 384;

// The yardstick: as many bytes through memcpy.
void copy_bytes(benchmark::State& state) {
  const Filled from(DType::float32, {kImages * kPatches, 768});
  const Filled to(DType::float32, {kImages * kPatches, 768});
  for (auto _ : state) {
    std::memcpy(to.array().data(), from.array().data(), from.array().size_bytes());
    benchmark::ClobberMemory();
  }
  report_bytes(state, 2 * static_cast<std::int64_t>(from.array().size_bytes()));
}

// range 0: bytes of a value of the patches; range 1: patch size; range 2: bytes of a pixel value.
void cut_patches(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const std::int64_t p = state.range(1);
  const bool pixels = state.range(2) == 1;
  const Filled images(pixels ? DType::uint8 : DType::float32,
                      pixels ? Shape{kImages, kSize, kSize, 3} : Shape{kImages, 3, kSize, kSize});
  const Filled patches(dtype_argument(state), {kImages * (kSize / p) * (kSize / p), 3 * p * p});
  for (auto _ : state) patchify({.images = images, .patches = patches, .patch_px = p}, *stream);
  report_bytes(state, static_cast<std::int64_t>(images.array().size_bytes() + patches.array().size_bytes()));
}

void assemble(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const DType dtype = dtype_argument(state);
  const Filled embedded(dtype, {kImages * kPatches, kWidth});
  const Filled tokens(dtype, {kImages * (kPatches + 1), kWidth});
  const Filled cls(DType::float32, {kWidth});
  const Filled positions(DType::float32, {kPatches + 1, kWidth});
  for (auto _ : state) {
    assemble_tokens({.embedded = embedded, .cls = cls, .positions = positions, .tokens = tokens, .count = kImages},
                    *stream);
  }
  report_bytes(state, static_cast<std::int64_t>(embedded.array().size_bytes() + tokens.array().size_bytes()));
}

void assemble_backward(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const DType dtype = dtype_argument(state);
  const Filled d_embedded(dtype, {kImages * kPatches, kWidth});
  const Filled d_tokens(dtype, {kImages * (kPatches + 1), kWidth});
  const Filled d_cls(DType::float32, {kWidth});
  const Filled d_positions(DType::float32, {kPatches + 1, kWidth});
  for (auto _ : state) {
    assemble_tokens_backward({.d_tokens = d_tokens,
                              .d_embedded = d_embedded,
                              .d_cls = d_cls,
                              .d_positions = d_positions,
                              .count = kImages,
                              .embedded_mode = GradientMode::overwrite,
                              .cls_mode = GradientMode::overwrite,
                              .positions_mode = GradientMode::overwrite},
                             *stream);
  }
  report_bytes(state, static_cast<std::int64_t>(d_embedded.array().size_bytes() + d_tokens.array().size_bytes()));
}

}  // namespace

BENCHMARK(copy_bytes)->UseRealTime();
BENCHMARK(cut_patches)->ArgNames({"value", "patch", "pixel"})->ArgsProduct({{4, 2}, {16, 8}, {1, 4}})->UseRealTime();
BENCHMARK(assemble)->ArgName("value")->Arg(4)->Arg(2)->UseRealTime();
BENCHMARK(assemble_backward)->ArgName("value")->Arg(4)->Arg(2)->UseRealTime();
BENCHMARK_MAIN();
