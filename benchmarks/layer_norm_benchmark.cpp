// LayerNorm of all tokens with the residual addition before it.
#include "kernels/layer_norm/layer_norm.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/cudnn_reference.h"
#include "benchmarks/onednn.h"
#include "benchmarks/textbook/layer_norm.h"
#include "benchmarks/textbook/textbook.h"

#include <fmt/format.h>

#include <vector>

namespace dino::bench {
namespace {

constexpr double kEps = 1e-6;

/// Ones, as the stochastic depth's scales mostly are, so that libraries without them compute the same.
struct Branches {
  explicit Branches(Bench& bench) {
    const std::vector<float> ones(static_cast<std::size_t>(bench.workload().sequences()), 1.0F);
    row_sequence = bench.indices(bench.sequence_of_tokens());
    scale = bench.zeros(DType::float32, {bench.workload().sequences()});
    bench.stream().copy_from_host(scale.data(), ones.data(), scale.size_bytes());
  }
  Array row_sequence, scale;
};

Prepared prepare_forward(Bench& bench) {
  const std::int64_t rows = bench.workload().tokens(), width = bench.workload().width;
  const Branches branches(bench);
  const Array x = bench.values({rows, width}), branch = bench.values({rows, width});
  const Array gamma = bench.values(DType::float32, {width}), beta = bench.values(DType::float32, {width});
  const LayerNormForward args{.x = x,
                              .branch = branch,
                              .branch_scale = branches.scale,
                              .row_sequence = branches.row_sequence,
                              .gamma = gamma,
                              .beta = beta,
                              .eps = kEps,
                              .sum = bench.zeros(bench.dtype(), {rows, width}),
                              .normalized = bench.zeros(bench.dtype(), {rows, width}),
                              .mean = bench.zeros(DType::float32, {rows}),
                              .rstd = bench.zeros(DType::float32, {rows})};
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} x {}", rows, width),
                    .run = [=, &stream] { layer_norm_forward(args, stream); },
                    .outputs = {args.sum, args.normalized, args.mean}};
  textbook::add(bench, prepared, textbook::LayerNormForwardSteps{args});
  cudnn::add(bench, prepared, "cuDNN", &cudnn::layer_norm_forward, args, {});
  if (!bench.on_cpu()) return prepared;
  const auto add = onednn::add(x, branch, args.sum);
  const auto norm = onednn::layer_norm(args.sum, gamma, beta, kEps, args.normalized, args.mean, args.rstd);
  prepared.references.push_back({"oneDNN", [=] {
                                   add();
                                   norm();
                                 }});
  return prepared;
}

Prepared prepare_backward(Bench& bench) {
  const std::int64_t rows = bench.workload().tokens(), width = bench.workload().width;
  const Branches branches(bench);
  const Array sum = bench.values({rows, width}), dy = bench.values({rows, width}), d_sum = bench.values({rows, width});
  const Array gamma = bench.values(DType::float32, {width}), beta = bench.values(DType::float32, {width});
  const Array mean = bench.zeros(DType::float32, {rows}), rstd = bench.zeros(DType::float32, {rows});
  constexpr auto kOverwrite = GradientMode::overwrite;
  const LayerNormBackward args{.sum = sum,
                               .mean = mean,
                               .rstd = rstd,
                               .gamma = gamma,
                               .d_normalized = dy,
                               .d_sum = d_sum,
                               .branch_scale = branches.scale,
                               .row_sequence = branches.row_sequence,
                               .dx = bench.zeros(bench.dtype(), {rows, width}),
                               .dx_mode = kOverwrite,
                               .d_branch = bench.zeros(bench.dtype(), {rows, width}),
                               .d_branch_mode = kOverwrite,
                               .dgamma = bench.zeros(DType::float32, {width}),
                               .dgamma_mode = kOverwrite,
                               .dbeta = bench.zeros(DType::float32, {width}),
                               .dbeta_mode = kOverwrite};
  Stream& stream = bench.stream();
  const Array normalized = bench.zeros(bench.dtype(), {rows, width});
  layer_norm_forward({.x = sum,
                      .branch = {},
                      .branch_scale = {},
                      .row_sequence = {},
                      .gamma = gamma,
                      .beta = beta,
                      .eps = kEps,
                      .sum = {},
                      .normalized = normalized,
                      .mean = mean,
                      .rstd = rstd},
                     stream);
  Prepared prepared{.size = fmt::format("{} x {}", rows, width),
                    .run = [=, &stream] { layer_norm_backward(args, stream); },
                    .outputs = {args.dx, args.d_branch, args.dgamma, args.dbeta}};
  textbook::add(bench, prepared, textbook::LayerNormBackwardSteps{args});
  cudnn::add(bench, prepared, "cuDNN", &cudnn::layer_norm_backward, args, {});
  if (!bench.on_cpu()) return prepared;
  // The library takes the variance.
  const Array variance = bench.zeros(DType::float32, {rows});
  for (std::int64_t r = 0; r < rows; ++r) {
    const float inverse = rstd.as<float>()[r];
    variance.as<float>()[r] = 1 / (inverse * inverse) - static_cast<float>(kEps);
  }
  const auto norm = onednn::layer_norm_backward(sum, dy, gamma, kEps, mean, variance, args.dx, args.dgamma, args.dbeta);
  const auto add = onednn::add(args.dx, d_sum, args.dx);
  const auto copy = onednn::reorder(args.dx, args.d_branch);
  prepared.references.push_back({"oneDNN", [=] {
                                   norm();
                                   add();
                                   copy();
                                 }});
  return prepared;
}

const Registered kForward{{.operation = "layer_norm", .pass = "forward", .prepare = prepare_forward}};
const Registered kBackward{{.operation = "layer_norm", .pass = "backward", .prepare = prepare_backward}};

}  // namespace
}  // namespace dino::bench
