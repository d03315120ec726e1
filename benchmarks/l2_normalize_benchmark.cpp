#include "kernels/l2_normalize/l2_normalize.h"

#include "benchmarks/buffers.h"

using namespace dino;
using namespace dino::bench;

namespace {

// The width of the head's bottleneck, and more rows than fit into cache.
constexpr std::int64_t kRows = 51200;
constexpr std::int64_t kWidth = 256;

void forward(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const DType dtype = dtype_argument(state);
  const Filled x(dtype, {kRows, kWidth});
  const Filled y(dtype, {kRows, kWidth});
  for (auto _ : state) l2_normalize({.x = x, .y = y}, *stream);
  report_bytes(state, static_cast<std::int64_t>(2 * x.array().size_bytes()));
}

void backward(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const DType dtype = dtype_argument(state);
  const Filled x(dtype, {kRows, kWidth});
  const Filled dy(dtype, {kRows, kWidth});
  const Filled dx(dtype, {kRows, kWidth});
  for (auto _ : state) l2_normalize_backward({.x = x, .dy = dy, .dx = dx, .mode = GradientMode::overwrite}, *stream);
  report_bytes(state, static_cast<std::int64_t>(3 * x.array().size_bytes()));
}

}  // namespace

BENCHMARK(forward)->ArgName("value")->Arg(4)->Arg(2)->UseRealTime();
BENCHMARK(backward)->ArgName("value")->Arg(4)->Arg(2)->UseRealTime();
BENCHMARK_MAIN();
