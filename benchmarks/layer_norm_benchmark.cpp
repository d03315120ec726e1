// LayerNorm of all tokens with the residual addition before it.
#include "kernels/layer_norm/layer_norm.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/cudnn_reference.h"
#include "benchmarks/onednn.h"
#include "benchmarks/textbook.h"

#include <fmt/format.h>

#include <cmath>
#include <vector>

namespace dino::bench {
namespace {

constexpr double kEps = 1e-6;

/// Ones, as the stochastic depth's scales mostly are, so that libraries without them compute the same.
struct Branches {
  explicit Branches(Bench& bench) {
    const std::vector<std::int32_t> offsets = bench.sequence_offsets();
    std::vector<std::int32_t> sequences;
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
      sequences.insert(sequences.end(), static_cast<std::size_t>(offsets[s + 1] - offsets[s]),
                       static_cast<std::int32_t>(s));
    }
    const std::vector<float> ones(offsets.size() - 1, 1.0F);
    row_sequence = bench.indices(sequences);
    scale = bench.zeros(DType::float32, {static_cast<std::int64_t>(ones.size())});
    bench.stream().copy_from_host(scale.data(), ones.data(), scale.size_bytes());
  }
  Array row_sequence, scale;
};

/// As many passes over memory as the formula has steps.
template <typename T>
void textbook_forward(const LayerNormForward& args) {
  const std::int64_t rows = args.x.extent(0), width = args.x.extent(1);
  const T *x = args.x.as<T>(), *branch = args.branch.as<T>();
  const float *scale = args.branch_scale.as<float>(), *gamma = args.gamma.as<float>(), *beta = args.beta.as<float>();
  const auto* sequence = args.row_sequence.as<std::int32_t>();
  T *sum = args.sum.as<T>(), *y = args.normalized.as<T>();
  float *mean = args.mean.as<float>(), *rstd = args.rstd.as<float>();
  using textbook::get;
  textbook::for_rows(rows, [=](std::int64_t r) {
    for (std::int64_t c = r * width; c < (r + 1) * width; ++c)
      sum[c] = textbook::put<T>(get(x[c]) + scale[sequence[r]] * get(branch[c]));
  });
  textbook::for_rows(rows, [=](std::int64_t r) {
    float total = 0;
    for (std::int64_t c = 0; c < width; ++c) total += get(sum[r * width + c]);
    mean[r] = total / static_cast<float>(width);
  });
  textbook::for_rows(rows, [=](std::int64_t r) {
    float total = 0;
    for (std::int64_t c = 0; c < width; ++c) {
      const float difference = get(sum[r * width + c]) - mean[r];
      total += difference * difference;
    }
    rstd[r] = 1 / std::sqrt(total / static_cast<float>(width) + static_cast<float>(kEps));
  });
  textbook::for_rows(rows, [=](std::int64_t r) {
    for (std::int64_t c = 0; c < width; ++c) {
      const std::int64_t at = r * width + c;
      y[at] = textbook::put<T>((get(sum[at]) - mean[r]) * rstd[r] * gamma[c] + beta[c]);
    }
  });
}

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
  cudnn::add(bench, prepared, "cuDNN", &cudnn::layer_norm_forward, args, {});
  if (!bench.on_cpu()) return prepared;
  prepared.references.push_back(
      {"textbook", [=] { textbook::dispatch(args.sum, [&](auto t) { textbook_forward<decltype(t)>(args); }); }});
  const auto add = onednn::add(x, branch, args.sum);
  const auto norm = onednn::layer_norm(args.sum, gamma, beta, kEps, args.normalized, args.mean, args.rstd);
  prepared.references.push_back({"oneDNN", [=] {
                                   add();
                                   norm();
                                 }});
  return prepared;
}

template <typename T>
void textbook_backward(const LayerNormBackward& args) {
  const std::int64_t rows = args.sum.extent(0), width = args.sum.extent(1);
  const T *sum = args.sum.as<T>(), *dy = args.d_normalized.as<T>(), *d_sum = args.d_sum.as<T>();
  const float *mean = args.mean.as<float>(), *rstd = args.rstd.as<float>(), *gamma = args.gamma.as<float>();
  const float* scale = args.branch_scale.as<float>();
  const auto* sequence = args.row_sequence.as<std::int32_t>();
  T *dx = args.dx.as<T>(), *d_branch = args.d_branch.as<T>();
  float *dgamma = args.dgamma.as<float>(), *dbeta = args.dbeta.as<float>();
  using textbook::get;
  textbook::for_rows(width, [=](std::int64_t c) { dgamma[c] = dbeta[c] = 0; });
#pragma omp parallel for reduction(+ : dgamma[:width], dbeta[:width])
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < width; ++c) {
      const float d = get(dy[r * width + c]);
      dgamma[c] += d * (get(sum[r * width + c]) - mean[r]) * rstd[r];
      dbeta[c] += d;
    }
  }
  textbook::for_rows(rows, [=](std::int64_t r) {
    float mean_g = 0, mean_gn = 0;
    for (std::int64_t c = 0; c < width; ++c) {
      const float g = get(dy[r * width + c]) * gamma[c];
      mean_g += g;
      mean_gn += g * (get(sum[r * width + c]) - mean[r]) * rstd[r];
    }
    mean_g /= static_cast<float>(width);
    mean_gn /= static_cast<float>(width);
    for (std::int64_t c = 0; c < width; ++c) {
      const std::int64_t at = r * width + c;
      const float n = (get(sum[at]) - mean[r]) * rstd[r];
      dx[at] = textbook::put<T>(rstd[r] * (get(dy[at]) * gamma[c] - mean_g - n * mean_gn));
    }
  });
  textbook::for_rows(rows, [=](std::int64_t r) {
    for (std::int64_t at = r * width; at < (r + 1) * width; ++at)
      dx[at] = textbook::put<T>(get(dx[at]) + get(d_sum[at]));
  });
  textbook::for_rows(rows, [=](std::int64_t r) {
    for (std::int64_t at = r * width; at < (r + 1) * width; ++at)
      d_branch[at] = textbook::put<T>(scale[sequence[r]] * get(dx[at]));
  });
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
  cudnn::add(bench, prepared, "cuDNN", &cudnn::layer_norm_backward, args, {});
  if (!bench.on_cpu()) return prepared;
  prepared.references.push_back(
      {"textbook", [=] { textbook::dispatch(args.dx, [&](auto t) { textbook_backward<decltype(t)>(args); }); }});
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
