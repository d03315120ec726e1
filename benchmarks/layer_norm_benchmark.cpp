#include "kernels/layer_norm/layer_norm.h"

#include "benchmarks/buffers.h"

#include <cstring>

using namespace dino;
using namespace dino::bench;

namespace {

// ViT-S and the tokens of 16 images: 2 · 197 + 8 · 37 each.
constexpr std::int64_t kRows = 16 * 690;
constexpr std::int64_t kWidth = 384;

struct Problem {
  explicit Problem(DType dtype)
      : x(dtype, {kRows, kWidth}),
        branch(dtype, {kRows, kWidth}),
        sum(dtype, {kRows, kWidth}),
        y(dtype, {kRows, kWidth}) {
    std::memset(row_sequence.array().data(), 0, row_sequence.array().size_bytes());
  }
  LayerNormForward forward_args() const {
    return {.x = x,
            .branch = branch,
            .branch_scale = scale,
            .row_sequence = row_sequence,
            .gamma = gamma,
            .beta = beta,
            .eps = 1e-6,
            .sum = sum,
            .normalized = y,
            .mean = mean,
            .rstd = rstd};
  }

  Filled x, branch, sum, y;
  Filled scale{DType::float32, {1}};
  Filled row_sequence{DType::int32, {kRows}};
  Filled gamma{DType::float32, {kWidth}};
  Filled beta{DType::float32, {kWidth}};
  Filled mean{DType::float32, {kRows}};
  Filled rstd{DType::float32, {kRows}};
};

void add_forward(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const Problem p(dtype_argument(state));
  for (auto _ : state) layer_norm_forward(p.forward_args(), *stream);
  report_bytes(state, static_cast<std::int64_t>(4 * p.x.array().size_bytes()));
}

void add_backward(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const DType dtype = dtype_argument(state);
  const Problem p(dtype);
  layer_norm_forward(p.forward_args(), *stream);
  const Filled d_sum(dtype, {kRows, kWidth});
  const Filled dgamma(DType::float32, {kWidth});
  const Filled dbeta(DType::float32, {kWidth});
  constexpr auto kOverwrite = GradientMode::overwrite;
  // On the tape dx may lie over d_sum; here that would let it grow from call to call.
  const Filled dx(dtype, {kRows, kWidth});
  for (auto _ : state) {
    layer_norm_backward({.sum = p.sum,
                         .mean = p.mean,
                         .rstd = p.rstd,
                         .gamma = p.gamma,
                         .d_normalized = p.y,
                         .d_sum = d_sum,
                         .branch_scale = p.scale,
                         .row_sequence = p.row_sequence,
                         .dx = dx,
                         .dx_mode = kOverwrite,
                         .d_branch = p.branch,
                         .d_branch_mode = kOverwrite,
                         .dgamma = dgamma,
                         .dgamma_mode = kOverwrite,
                         .dbeta = dbeta,
                         .dbeta_mode = kOverwrite},
                        *stream);
  }
  report_bytes(state, static_cast<std::int64_t>(5 * p.x.array().size_bytes()));
}

}  // namespace

BENCHMARK(add_forward)->ArgName("value")->Arg(4)->Arg(2)->UseRealTime();
BENCHMARK(add_backward)->ArgName("value")->Arg(4)->Arg(2)->UseRealTime();
BENCHMARK_MAIN();
