#include "kernels/batch_norm/batch_norm.h"
#include "tests/support/catch.h"
#include "tests/support/every_stream.h"
#include "tests/support/host_array.h"

#include <omp.h>

using namespace dino;
using namespace dino::test;

namespace {

double tolerance_of(DType dtype) { return dtype == DType::float32 ? 2e-6 : 0x1p-8; }

// All five steps on one rank, by the kernels or by the oracle.
struct Run {
  HostArray sums, squares, y, mean, inverse_std, statistics, gradient_sums, d_gamma, d_beta, dx;
};

Run run(const HostArray& x, const HostArray& dy, const HostArray& gamma, const HostArray& beta, DType statistics_type,
        DType type, GradientMode mode, Stream* stream) {
  const std::int64_t width = x.shape()[1];
  const auto start = [&](DType dtype, const Shape& shape) {
    return mode == GradientMode::accumulate
               ? random_normal(dtype == DType::float64 ? DType::float32 : dtype, shape, 9).to(dtype)
               : HostArray(dtype, shape);
  };
  Run r{.sums = HostArray(statistics_type, {width + 1}),
        .squares = HostArray(statistics_type, {width}),
        .y = HostArray(type, x.shape()),
        .mean = HostArray(statistics_type, {width}),
        .inverse_std = HostArray(statistics_type, {width}),
        .statistics = HostArray(statistics_type, {2, width}),
        .gradient_sums = HostArray(statistics_type, {2, width}),
        .d_gamma = start(statistics_type, {width}),
        .d_beta = start(statistics_type, {width}),
        .dx = start(type, x.shape())};
  const BatchNormSums sums{.x = x, .sums = r.sums};
  const BatchNormSquares squares{.x = x, .sums = r.sums, .squares = r.squares};
  const BatchNormForward forward{.x = x,
                                 .sums = r.sums,
                                 .squares = r.squares,
                                 .gamma = gamma,
                                 .beta = beta,
                                 .eps = 1e-5,
                                 .y = r.y,
                                 .mean = r.mean,
                                 .inverse_std = r.inverse_std,
                                 .statistics = r.statistics};
  const BatchNormBackwardSums backward_sums{.x = x,
                                            .dy = dy,
                                            .mean = r.mean,
                                            .inverse_std = r.inverse_std,
                                            .sums = r.gradient_sums,
                                            .d_gamma = r.d_gamma,
                                            .d_beta = r.d_beta,
                                            .gamma_mode = mode,
                                            .beta_mode = mode};
  const BatchNormBackward backward{.x = x,
                                   .dy = dy,
                                   .mean = r.mean,
                                   .inverse_std = r.inverse_std,
                                   .gamma = gamma,
                                   .sums = r.gradient_sums,
                                   .forward_sums = r.sums,
                                   .dx = r.dx,
                                   .mode = mode};
  if (stream != nullptr) {
    batch_norm_sums(sums, *stream);
    batch_norm_squares(squares, *stream);
    batch_norm_forward(forward, *stream);
    batch_norm_backward_sums(backward_sums, *stream);
    batch_norm_backward(backward, *stream);
  } else {
    reference::batch_norm_sums(sums);
    reference::batch_norm_squares(squares);
    reference::batch_norm_forward(forward);
    reference::batch_norm_backward_sums(backward_sums);
    reference::batch_norm_backward(backward);
  }
  return r;
}

}  // namespace

static void check_steps(Stream& stream);
TEST_CASE("batch_norm agrees with the oracle", "[device]") { every_stream(check_steps); }
static void check_steps(Stream& stream) {
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (const Shape& shape : {Shape{2, 1}, Shape{5, 7}, Shape{33, 300}, Shape{100, 512}}) {
      for (const int misalign : {0, 1}) {
        for (const GradientMode mode : {GradientMode::overwrite, GradientMode::accumulate}) {
          const HostArray x = random_normal(dtype, shape, 1, 2.0, 0.5, misalign);
          const HostArray dy = random_normal(dtype, shape, 2, 1.0, 0.0, misalign);
          const HostArray gamma = random_normal(DType::float32, {shape[1]}, 3, 0.2, 1.0, misalign);
          const HostArray beta = random_normal(DType::float32, {shape[1]}, 4, 0.2, 0.0, misalign);
          const Run got = run(x, dy, gamma, beta, DType::float32, dtype, mode, &stream);
          const Run expected = run(x, dy, gamma, beta, DType::float64, DType::float64, mode, nullptr);
          check_close(got.y, expected.y, tolerance_of(dtype), "y");
          check_close(got.statistics, expected.statistics, 2e-6, "statistics");
          check_close(got.gradient_sums, expected.gradient_sums, 5e-6, "sums of the gradient");
          if (mode == GradientMode::accumulate) continue;  // the oracle starts from other values below
          check_close(got.d_gamma, expected.d_gamma, 5e-6, "d_gamma");
          check_close(got.d_beta, expected.d_beta, 5e-6, "d_beta");
          // Two rows leave nothing of dx but what eps does.
          if (shape[0] > 2) check_close(got.dx, expected.dx, tolerance_of(dtype), "dx");
        }
      }
    }
  }
}

static void check_accumulation(Stream& stream);
TEST_CASE("batch_norm accumulates gradients", "[device]") { every_stream(check_accumulation); }
static void check_accumulation(Stream& stream) {
  const Shape shape{20, 40};
  const HostArray x = random_normal(DType::float32, shape, 1);
  const HostArray dy = random_normal(DType::float32, shape, 2);
  const HostArray gamma = random_normal(DType::float32, {40}, 3, 0.2, 1.0);
  const Run once = run(x, dy, gamma, gamma, DType::float32, DType::float32, GradientMode::overwrite, &stream);
  const Run added = run(x, dy, gamma, gamma, DType::float32, DType::float32, GradientMode::accumulate, &stream);
  for (const auto& [sum, part] : {std::pair{&added.dx, &once.dx}, std::pair{&added.d_gamma, &once.d_gamma},
                                  std::pair{&added.d_beta, &once.d_beta}}) {
    HostArray expected = random_normal(DType::float32, part->shape(), 9).to(DType::float64);
    for (std::int64_t i = 0; i < expected.size(); ++i) expected.set(i, expected.at(i) + part->at(i));
    check_close(*sum, expected, 1e-6, "sum");
  }
}

static void check_large_mean(Stream& stream);
TEST_CASE("batch_norm keeps a small variance around a large mean", "[device]") { every_stream(check_large_mean); }
static void check_large_mean(Stream& stream) {
  const Shape shape{500, 20};
  const HostArray x = random_normal(DType::float32, shape, 1, 1.0, 1000.0);
  const HostArray ones = random_normal(DType::float32, {20}, 2, 0.0, 1.0);
  const Run got = run(x, x, ones, ones, DType::float32, DType::float32, GradientMode::overwrite, &stream);
  const Run expected = run(x, x, ones, ones, DType::float64, DType::float64, GradientMode::overwrite, nullptr);
  check_close(got.statistics, expected.statistics, 1e-5, "statistics");
  check_close(got.y, expected.y, 1e-3, "y");
}

TEST_CASE("batch_norm gives the same bits for any number of threads") {
  const auto stream = make_cpu_stream();
  const Shape shape{40, 1100};
  const HostArray x = random_normal(DType::float32, shape, 1);
  const HostArray gamma = random_normal(DType::float32, {shape[1]}, 3, 0.2, 1.0);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const Run one = run(x, x, gamma, gamma, DType::float32, DType::float32, GradientMode::overwrite, stream.get());
  omp_set_num_threads(3);
  const Run three = run(x, x, gamma, gamma, DType::float32, DType::float32, GradientMode::overwrite, stream.get());
  omp_set_num_threads(threads);
  check_close(three.y, one.y, 0.0, "y");
  check_close(three.dx, one.dx, 0.0, "dx");
  check_close(three.gradient_sums, one.gradient_sums, 0.0, "sums of the gradient");
}

TEST_CASE("the oracle of batch_norm has the right gradient") {
  const Shape shape{6, 3};
  const HostArray x = random_normal(DType::float64, shape, 1);
  const HostArray dy = random_normal(DType::float64, shape, 2);
  const HostArray gamma = random_normal(DType::float64, {3}, 3, 0.2, 1.0);
  const HostArray beta = random_normal(DType::float64, {3}, 4);
  const auto evaluate = [&] {
    return run(x, dy, gamma, beta, DType::float64, DType::float64, GradientMode::overwrite, nullptr);
  };
  const Run analytic = evaluate();
  const auto loss = [&] {
    const Run r = evaluate();
    double sum = 0;
    for (std::int64_t i = 0; i < r.y.size(); ++i) sum += r.y.at(i) * dy.at(i);
    return sum;
  };
  check_gradient(loss, x, analytic.dx, 1e-7, "dx");
  check_gradient(loss, gamma, analytic.d_gamma, 1e-7, "d_gamma");
  check_gradient(loss, beta, analytic.d_beta, 1e-7, "d_beta");
}
