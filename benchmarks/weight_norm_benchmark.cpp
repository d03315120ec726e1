#include "kernels/weight_norm/weight_norm.h"

#include "benchmarks/buffers.h"

using namespace dino;
using namespace dino::bench;

namespace {

constexpr std::int64_t kPrototypes = 65536;
constexpr std::int64_t kWidth = 256;

void forward(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const Filled v(DType::float32, {kPrototypes, kWidth});
  const Filled g(DType::float32, {kPrototypes, 1});
  const Filled w(dtype_argument(state), {kPrototypes, kWidth});
  for (auto _ : state) weight_norm({.v = v, .g = g, .w = w}, *stream);
  report_bytes(state, static_cast<std::int64_t>(v.array().size_bytes() + w.array().size_bytes()));
}

void backward(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const Filled v(DType::float32, {kPrototypes, kWidth});
  const Filled g(DType::float32, {kPrototypes, 1});
  const Filled dw(dtype_argument(state), {kPrototypes, kWidth});
  const Filled dv(DType::float32, {kPrototypes, kWidth});
  for (auto _ : state) {
    weight_norm_backward({.v = v, .g = g, .dw = dw, .dv = dv, .dg = {}, .dv_mode = GradientMode::overwrite}, *stream);
  }
  report_bytes(state,
               static_cast<std::int64_t>(v.array().size_bytes() + dw.array().size_bytes() + dv.array().size_bytes()));
}

}  // namespace

BENCHMARK(forward)->ArgName("value")->Arg(4)->Arg(2)->UseRealTime();
BENCHMARK(backward)->ArgName("value")->Arg(4)->Arg(2)->UseRealTime();
BENCHMARK_MAIN();
