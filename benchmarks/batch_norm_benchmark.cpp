#include "kernels/batch_norm/batch_norm.h"

#include "benchmarks/buffers.h"

using namespace dino;
using namespace dino::bench;

namespace {

// A hidden layer of the head for 10 crops of 128 images.
constexpr std::int64_t kRows = 1280;
constexpr std::int64_t kWidth = 2048;

struct Arrays {
  Filled sums{DType::float32, {kWidth + 1}}, squares{DType::float32, {kWidth}}, mean{DType::float32, {kWidth}};
  Filled inverse_std{DType::float32, {kWidth}}, gamma{DType::float32, {kWidth}}, beta{DType::float32, {kWidth}};
  Filled gradient_sums{DType::float32, {2, kWidth}};
};

void forward(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const DType dtype = dtype_argument(state);
  const Filled x(dtype, {kRows, kWidth});
  const Filled y(dtype, {kRows, kWidth});
  const Arrays a;
  for (auto _ : state) {
    batch_norm_sums({.x = x, .sums = a.sums}, *stream);
    batch_norm_squares({.x = x, .sums = a.sums, .squares = a.squares}, *stream);
    batch_norm_forward({.x = x,
                        .sums = a.sums,
                        .squares = a.squares,
                        .gamma = a.gamma,
                        .beta = a.beta,
                        .y = y,
                        .mean = a.mean,
                        .inverse_std = a.inverse_std,
                        .statistics = {}},
                       *stream);
  }
  report_bytes(state, static_cast<std::int64_t>(4 * x.array().size_bytes()));
}

void backward(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const DType dtype = dtype_argument(state);
  const Filled x(dtype, {kRows, kWidth});
  const Filled dy(dtype, {kRows, kWidth});
  const Filled dx(dtype, {kRows, kWidth});
  const Arrays a;
  a.sums.array().as<float>()[kWidth] = static_cast<float>(kRows);
  for (auto _ : state) {
    batch_norm_backward_sums({.x = x,
                              .dy = dy,
                              .mean = a.mean,
                              .inverse_std = a.inverse_std,
                              .sums = a.gradient_sums,
                              .d_gamma = {},
                              .d_beta = {}},
                             *stream);
    batch_norm_backward({.x = x,
                         .dy = dy,
                         .mean = a.mean,
                         .inverse_std = a.inverse_std,
                         .gamma = a.gamma,
                         .sums = a.gradient_sums,
                         .forward_sums = a.sums,
                         .dx = dx,
                         .mode = GradientMode::overwrite},
                        *stream);
  }
  report_bytes(state, static_cast<std::int64_t>(5 * x.array().size_bytes()));
}

}  // namespace

BENCHMARK(forward)->ArgName("value")->Arg(4)->Arg(2)->UseRealTime();
BENCHMARK(backward)->ArgName("value")->Arg(4)->Arg(2)->UseRealTime();
BENCHMARK_MAIN();
