#include "kernels/gelu/gelu.h"

#include "benchmarks/buffers.h"
#include "kernels/column_sum/column_sum.h"

#include <cmath>
#include <numbers>

using namespace dino;
using namespace dino::bench;

namespace {

// The hidden layer of ViT-S/16 for four images.
constexpr std::int64_t kRows = 2760;
constexpr std::int64_t kWidth = 1536;

void forward(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const Filled x(dtype_argument(state), {kRows, kWidth});
  const Filled y(dtype_argument(state), {kRows, kWidth});
  for (auto _ : state) gelu_forward({.x = x, .y = y}, *stream);
  report_bytes(state, static_cast<std::int64_t>(2 * x.array().size_bytes()));
}

/// What the C library's erff makes of it, on one thread.
void forward_naive(benchmark::State& state) {
  const Filled x(DType::float32, {kRows, kWidth});
  const Filled y(DType::float32, {kRows, kWidth});
  const float* from = x.array().as<float>();
  float* to = y.array().as<float>();
  for (auto _ : state) {
    for (std::int64_t i = 0; i < kRows * kWidth; ++i) {
      to[i] = 0.5F * from[i] * (1.0F + std::erf(from[i] / std::numbers::sqrt2_v<float>));
    }
    benchmark::ClobberMemory();
  }
  report_bytes(state, static_cast<std::int64_t>(2 * x.array().size_bytes()));
}

/// With the gradient of the bias, as linear_gelu does it.
void backward(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const Filled x(dtype_argument(state), {kRows, kWidth});
  const Filled dy(dtype_argument(state), {kRows, kWidth});
  const Filled dx(dtype_argument(state), {kRows, kWidth});
  const Filled dbias(DType::float32, {kWidth});
  for (auto _ : state) {
    gelu_backward({.x = x, .dy = dy, .dx = dx, .dbias = dbias, .dbias_mode = GradientMode::overwrite}, *stream);
  }
  report_bytes(state, static_cast<std::int64_t>(3 * x.array().size_bytes()));
}

void column_sums(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const Filled x(dtype_argument(state), {kRows, kWidth});
  const Filled y(DType::float32, {kWidth});
  for (auto _ : state) column_sum({.x = x, .y = y}, *stream);
  report_bytes(state, static_cast<std::int64_t>(x.array().size_bytes()));
}

}  // namespace

BENCHMARK(forward)->ArgName("value")->Arg(4)->Arg(2)->UseRealTime();
BENCHMARK(forward_naive)->UseRealTime();
BENCHMARK(backward)->ArgName("value")->Arg(4)->Arg(2)->UseRealTime();
BENCHMARK(column_sums)->ArgName("value")->Arg(4)->Arg(2)->UseRealTime();
BENCHMARK_MAIN();
