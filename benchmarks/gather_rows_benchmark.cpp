#include "kernels/gather_rows/gather_rows.h"

#include "benchmarks/buffers.h"

using namespace dino;
using namespace dino::bench;

namespace {

// The CLS rows of 32 images' crops, ViT-S/16: 690 tokens and 10 sequences an image.
constexpr std::int64_t kTokens = 32 * 690;
constexpr std::int64_t kRows = 320;
constexpr std::int64_t kWidth = 384;

Filled cls_rows() {
  Filled rows(DType::int32, {kRows});
  for (std::int64_t r = 0; r < kRows; ++r) rows.array().as<std::int32_t>()[r] = static_cast<std::int32_t>(r * 69);
  return rows;
}

void forward(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const DType dtype = dtype_argument(state);
  const Filled x(dtype, {kTokens, kWidth});
  const Filled rows = cls_rows();
  const Filled y(dtype, {kRows, kWidth});
  for (auto _ : state) gather_rows({.x = x, .rows = rows, .y = y}, *stream);
  report_bytes(state, static_cast<std::int64_t>(2 * y.array().size_bytes()));
}

void backward(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const DType dtype = dtype_argument(state);
  const bool accumulate = state.range(1) != 0;
  const Filled dx(dtype, {kTokens, kWidth});
  const Filled dy(dtype, {kRows, kWidth});
  const Filled rows = cls_rows();
  const GradientMode mode = accumulate ? GradientMode::accumulate : GradientMode::overwrite;
  for (auto _ : state) gather_rows_backward({.dy = dy, .rows = rows, .dx = dx, .mode = mode}, *stream);
  report_bytes(state, static_cast<std::int64_t>(accumulate ? 3 * dy.array().size_bytes() : dx.array().size_bytes()));
}

}  // namespace

BENCHMARK(forward)->ArgName("value")->Arg(4)->Arg(2)->UseRealTime();
BENCHMARK(backward)->ArgNames({"value", "accumulate"})->ArgsProduct({{4, 2}, {0, 1}})->UseRealTime();
BENCHMARK_MAIN();
