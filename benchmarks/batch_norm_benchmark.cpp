// A hidden layer of a head with batch norm, over the views of all images.
#include "kernels/batch_norm/batch_norm.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/textbook/batch_norm.h"
#include "benchmarks/textbook/textbook.h"

#include <fmt/format.h>

namespace dino::bench {
namespace {

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

Prepared prepare_forward(Bench& bench) {
  const std::int64_t rows = bench.workload().sequences(), width = bench.workload().head_hidden;
  const Array x = bench.values({rows, width}), y = bench.zeros(bench.dtype(), {rows, width});
  const Statistics s(bench, width);
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} x {}", rows, width),
                    .run = [=, &stream] { run_forward(x, y, s, stream); },
                    .outputs = {y, s.mean, s.inverse_std}};
  textbook::add(bench, prepared,
                textbook::BatchNormForwardSteps{
                    .x = x, .gamma = s.gamma, .beta = s.beta, .y = y, .mean = s.mean, .inverse_std = s.inverse_std});
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
  textbook::add(bench, prepared,
                textbook::BatchNormBackwardSteps{.x = x,
                                                 .dy = dy,
                                                 .mean = s.mean,
                                                 .inverse_std = s.inverse_std,
                                                 .gamma = s.gamma,
                                                 .sums = s.gradient_sums,
                                                 .dx = dx});
  return prepared;
}

const Registered kForward{{.operation = "batch_norm", .pass = "forward", .prepare = prepare_forward}};
const Registered kBackward{{.operation = "batch_norm", .pass = "backward", .prepare = prepare_backward}};

}  // namespace
}  // namespace dino::bench
