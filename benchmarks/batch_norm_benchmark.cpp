// A hidden layer of a head with batch norm, over the views of all images.
#include "kernels/batch_norm/batch_norm.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/textbook.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace dino::bench {
namespace {

using textbook::get;
using textbook::put;

struct Statistics {
  explicit Statistics(Bench& bench, std::int64_t width)
      : sums(bench.zeros(DType::float32, {width + 1})),
        squares(bench.zeros(DType::float32, {width})),
        mean(bench.zeros(DType::float32, {width})),
        inverse_std(bench.zeros(DType::float32, {width})),
        gamma(bench.values(DType::float32, {width})),
        beta(bench.values(DType::float32, {width})),
        gradient_sums(bench.zeros(DType::float32, {2, width})) {}
  Array sums, squares, mean, inverse_std, gamma, beta, gradient_sums;
};

void run_forward(const Array& x, const Array& y, const Statistics& s, Stream& stream) {
  batch_norm_sums({.x = x, .sums = s.sums}, stream);
  batch_norm_squares({.x = x, .sums = s.sums, .squares = s.squares}, stream);
  batch_norm_forward({.x = x,
                      .sums = s.sums,
                      .squares = s.squares,
                      .gamma = s.gamma,
                      .beta = s.beta,
                      .y = y,
                      .mean = s.mean,
                      .inverse_std = s.inverse_std,
                      .statistics = {}},
                     stream);
}

/// totals[c] = Σ over rows of value(element).
template <typename Value>
void add_columns(std::int64_t rows, std::int64_t width, float* totals, const Value& value) {
  std::fill_n(totals, width, 0.0F);
#pragma omp parallel for reduction(+ : totals[:width])
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < width; ++c) totals[c] += value(r * width + c, c);
  }
}

Prepared prepare_forward(Bench& bench) {
  const std::int64_t rows = bench.workload().sequences(), width = bench.workload().head_hidden;
  const Array x = bench.values({rows, width}), y = bench.zeros(bench.dtype(), {rows, width});
  const Statistics s(bench, width);
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} x {}", rows, width),
                    .run = [=, &stream] { run_forward(x, y, s, stream); },
                    .outputs = {y, s.mean, s.inverse_std}};
  if (!bench.on_cpu()) return prepared;
  const auto textbook = [=] {
    textbook::dispatch(x, [=](auto t) {
      using T = decltype(t);
      const T* from = x.as<T>();
      T* to = y.as<T>();
      const auto n = static_cast<float>(rows);
      float *mean = s.mean.as<float>(), *inverse = s.inverse_std.as<float>();
      const float *gamma = s.gamma.as<float>(), *beta = s.beta.as<float>();
      add_columns(rows, width, mean, [=](std::int64_t i, std::int64_t) { return get(from[i]); });
      for (std::int64_t c = 0; c < width; ++c) mean[c] /= n;
      add_columns(rows, width, inverse,
                  [=](std::int64_t i, std::int64_t c) { return (get(from[i]) - mean[c]) * (get(from[i]) - mean[c]); });
      for (std::int64_t c = 0; c < width; ++c) inverse[c] = 1 / std::sqrt(inverse[c] / n + 1e-5F);
      textbook::for_rows(rows, [=](std::int64_t r) {
        for (std::int64_t c = 0; c < width; ++c)
          to[r * width + c] = put<T>(gamma[c] * (get(from[r * width + c]) - mean[c]) * inverse[c] + beta[c]);
      });
    });
  };
  prepared.references = {{"textbook", textbook}};
  return prepared;
}

Prepared prepare_backward(Bench& bench) {
  const std::int64_t rows = bench.workload().sequences(), width = bench.workload().head_hidden;
  const Array x = bench.values({rows, width}), dy = bench.values({rows, width});
  const Array dx = bench.zeros(bench.dtype(), {rows, width});
  const Statistics s(bench, width);
  Stream& stream = bench.stream();
  run_forward(x, dx, s, stream);
  const auto run = [=, &stream] {
    batch_norm_backward_sums({.x = x,
                              .dy = dy,
                              .mean = s.mean,
                              .inverse_std = s.inverse_std,
                              .sums = s.gradient_sums,
                              .d_gamma = {},
                              .d_beta = {}},
                             stream);
    batch_norm_backward({.x = x,
                         .dy = dy,
                         .mean = s.mean,
                         .inverse_std = s.inverse_std,
                         .gamma = s.gamma,
                         .sums = s.gradient_sums,
                         .forward_sums = s.sums,
                         .dx = dx,
                         .mode = GradientMode::overwrite},
                        stream);
  };
  Prepared prepared{.size = fmt::format("{} x {}", rows, width), .run = run, .outputs = {dx, s.gradient_sums}};
  if (!bench.on_cpu()) return prepared;
  const auto textbook = [=] {
    textbook::dispatch(x, [=](auto t) {
      using T = decltype(t);
      const T *from = x.as<T>(), *d = dy.as<T>();
      T* to = dx.as<T>();
      const auto n = static_cast<float>(rows);
      const float *mean = s.mean.as<float>(), *inverse = s.inverse_std.as<float>(), *gamma = s.gamma.as<float>();
      float *sum = s.gradient_sums.as<float>(), *sum_normalized = sum + width;
      add_columns(rows, width, sum, [=](std::int64_t i, std::int64_t) { return get(d[i]); });
      add_columns(rows, width, sum_normalized,
                  [=](std::int64_t i, std::int64_t c) { return get(d[i]) * (get(from[i]) - mean[c]) * inverse[c]; });
      textbook::for_rows(rows, [=](std::int64_t r) {
        for (std::int64_t c = 0; c < width; ++c) {
          const std::int64_t i = r * width + c;
          const float normalized = (get(from[i]) - mean[c]) * inverse[c];
          to[i] = put<T>(gamma[c] * inverse[c] * (get(d[i]) - sum[c] / n - normalized * sum_normalized[c] / n));
        }
      });
    });
  };
  prepared.references = {{"textbook", textbook}};
  return prepared;
}

const Registered kForward{{.operation = "batch_norm", .pass = "forward", .prepare = prepare_forward}};
const Registered kBackward{{.operation = "batch_norm", .pass = "backward", .prepare = prepare_backward}};

}  // namespace
}  // namespace dino::bench
