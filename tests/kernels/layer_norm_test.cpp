#include "kernels/layer_norm/layer_norm.h"

#include "kernels/common/parallel.h"
#include "tests/support/catch.h"
#include "tests/support/every_stream.h"
#include "tests/support/host_array.h"

using namespace dino;
using namespace dino::test;

namespace {

struct Size {
  std::int64_t rows, width;
};
const Size kSizes[] = {{1, 1}, {1, 7}, {3, 17}, {37, 192}, {131, 384}, {2, 768}};

/// fp32: rounding of sums over a row. bf16: results are rounded once, to 8 bits.
double tolerance(DType dtype) { return dtype == DType::float32 ? 2e-6 : 4e-3; }

/// Row t belongs to sequence t mod 3.
HostArray row_sequences(std::int64_t rows) {
  std::vector<std::int32_t> values;
  for (std::int64_t t = 0; t < rows; ++t) values.push_back(static_cast<std::int32_t>(t % 3));
  return from_integers(values);
}

}  // namespace

static void check_forward(Stream& stream);
TEST_CASE("layer_norm forward agrees with the oracle", "[device]") { every_stream(check_forward); }
static void check_forward(Stream& stream) {
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (const Size size : kSizes) {
      for (const int misalign : {0, 1}) {
        const Shape matrix{size.rows, size.width};
        INFO(name_of(dtype) << ' ' << matrix.to_string() << " misaligned by " << misalign);
        const HostArray x = random_normal(dtype, matrix, 1, 1.0, 3.0, misalign);
        const HostArray branch = random_normal(dtype, matrix, 2, 1.0, 0.0, misalign);
        const HostArray scale = from_values(DType::float32, {3}, {0.0, 1.25, 1.0});
        const HostArray row_sequence = row_sequences(size.rows);
        const HostArray gamma = random_normal(DType::float32, {size.width}, 3, 1.0, 1.0, misalign);
        const HostArray beta = random_normal(DType::float32, {size.width}, 4, 1.0, 0.0, misalign);
        for (const int variant : {0, 1, 2}) {  // no branch, a branch, a scaled branch
          HostArray sum(dtype, matrix, misalign);
          HostArray y(dtype, matrix, misalign);
          HostArray mean(DType::float32, {size.rows}, misalign);
          HostArray rstd(DType::float32, {size.rows}, misalign);
          LayerNormForward args{.x = x,
                                .branch = variant > 0 ? ConstArray(branch) : ConstArray(),
                                .branch_scale = variant > 1 ? ConstArray(scale) : ConstArray(),
                                .row_sequence = variant > 1 ? ConstArray(row_sequence) : ConstArray(),
                                .gamma = gamma,
                                .beta = beta,
                                .eps = 1e-6,
                                .sum = variant > 0 ? Array(sum) : Array(),
                                .normalized = y,
                                .mean = mean,
                                .rstd = rstd};
          layer_norm_forward(args, stream);

          // The oracle normalises the kernel's own sum, whose bf16 rounding is not the norm's error.
          HostArray sum_expected(dtype, matrix);
          HostArray y_expected(DType::float64, matrix);
          HostArray mean_expected(DType::float64, {size.rows});
          HostArray rstd_expected(DType::float64, {size.rows});
          LayerNormForward oracle = args;
          if (variant > 0) {
            oracle.sum = sum_expected;
            HostArray ignored(DType::float64, matrix);
            oracle.normalized = ignored;
            oracle.mean = Array();
            oracle.rstd = Array();
            reference::layer_norm_forward(oracle);
            check_close(sum, sum_expected, tolerance(dtype), "sum");
            oracle.x = sum;
            oracle.branch = ConstArray();
          }
          oracle.normalized = y_expected;
          oracle.mean = mean_expected;
          oracle.rstd = rstd_expected;
          reference::layer_norm_forward(oracle);
          check_close(mean, mean_expected, 1e-6, "mean");
          check_close(rstd, rstd_expected, 2e-6, "rstd");
          check_close(y, y_expected, tolerance(dtype), "normalized");
        }
      }
    }
  }
}

static void check_sum_in_place(Stream& stream);
TEST_CASE("layer_norm may write the sum over its input and needs no statistics", "[device]") {
  every_stream(check_sum_in_place);
}
static void check_sum_in_place(Stream& stream) {
  const Shape matrix{5, 33};
  HostArray x = random_normal(DType::float32, matrix, 1);
  const HostArray branch = random_normal(DType::float32, matrix, 2);
  const HostArray gamma = random_normal(DType::float32, {33}, 3);
  const HostArray beta = random_normal(DType::float32, {33}, 4);
  HostArray sum(DType::float32, matrix);
  HostArray y(DType::float32, matrix);
  HostArray y_expected(DType::float32, matrix);
  LayerNormForward args{};
  args.x = x;
  args.branch = branch;
  args.gamma = gamma;
  args.beta = beta;
  args.sum = sum;
  args.normalized = y_expected;
  reference::layer_norm_forward(args);
  args.sum = x;
  args.normalized = y;
  layer_norm_forward(args, stream);
  check_close(x, sum, 1e-6, "sum");
  check_close(y, y_expected, 2e-6, "normalized");
}

static void check_backward(Stream& stream);
TEST_CASE("layer_norm backward agrees with the oracle in every mode", "[device]") { every_stream(check_backward); }
static void check_backward(Stream& stream) {
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (const Size size : kSizes) {
      for (const GradientMode mode : {GradientMode::overwrite, GradientMode::accumulate}) {
        for (const int variant : {0, 1, 2, 3}) {  // plain; d_sum and scale; dx over d_sum; no d_normalized
          if (variant == 2 && mode == GradientMode::accumulate) continue;
          const int misalign = variant % 2;
          const Shape matrix{size.rows, size.width};
          const Shape vector{size.width};
          INFO(name_of(dtype) << ' ' << matrix.to_string() << " mode " << static_cast<int>(mode) << " variant "
                              << variant);
          const HostArray sum = random_normal(dtype, matrix, 1, 1.0, 3.0, misalign);
          // Backward takes the statistics as they come; of one element, forward's 1 / √eps would magnify rounding.
          const HostArray mean = random_normal(DType::float32, {size.rows}, 11, 0.1, 3.0);
          const HostArray rstd = random_normal(DType::float32, {size.rows}, 12, 0.1, 1.0);
          const HostArray gamma = random_normal(DType::float32, vector, 3, 1.0, 1.0, misalign);
          const HostArray d_normalized = random_normal(dtype, matrix, 5, 1.0, 0.0, misalign);
          HostArray d_sum = random_normal(dtype, matrix, 6, 1.0, 0.0, misalign);
          const HostArray scale = from_values(DType::float32, {3}, {0.0, 1.25, 1.0});
          const HostArray row_sequence = row_sequences(size.rows);
          HostArray dx = random_normal(dtype, matrix, 7, 1.0, 0.0, misalign);
          HostArray d_branch = random_normal(dtype, matrix, 8, 1.0, 0.0, misalign);
          HostArray dgamma = random_normal(DType::float32, vector, 9, 1.0, 0.0, misalign);
          HostArray dbeta = random_normal(DType::float32, vector, 10, 1.0, 0.0, misalign);
          HostArray dx_expected = dx.to(DType::float64);
          HostArray d_branch_expected = d_branch.to(DType::float64);
          HostArray dgamma_expected = dgamma.to(DType::float64);
          HostArray dbeta_expected = dbeta.to(DType::float64);

          LayerNormBackward args{};
          args.sum = sum;
          args.mean = mean;
          args.rstd = rstd;
          args.gamma = gamma;
          args.d_normalized = variant != 3 ? ConstArray(d_normalized) : ConstArray();
          if (variant > 0) {
            args.d_sum = d_sum;
            args.branch_scale = scale;
            args.row_sequence = row_sequence;
          }
          args.dx_mode = args.d_branch_mode = args.dgamma_mode = args.dbeta_mode = mode;
          if (variant == 3) args.dgamma_mode = args.dbeta_mode = GradientMode::ignore;
          LayerNormBackward oracle = args;
          args.dx = variant == 2 ? d_sum : dx;
          args.d_branch = d_branch;
          args.dgamma = dgamma;
          args.dbeta = dbeta;
          oracle.dx = dx_expected;
          oracle.d_branch = d_branch_expected;
          oracle.dgamma = dgamma_expected;
          oracle.dbeta = dbeta_expected;
          reference::layer_norm_backward(oracle);
          layer_norm_backward(args, stream);
          check_close(args.dx, dx_expected, tolerance(dtype), "dx");
          check_close(d_branch, d_branch_expected, tolerance(dtype), "d_branch");
          check_close(dgamma, dgamma_expected, 2e-6, "dgamma");
          check_close(dbeta, dbeta_expected, 2e-6, "dbeta");
        }
      }
    }
  }
}

TEST_CASE("layer_norm backward gives the same bits for any number of threads") {
  const auto stream = make_cpu_stream();
  const Shape matrix{197, 96};
  const HostArray sum = random_normal(DType::float32, matrix, 1);
  const HostArray d_normalized = random_normal(DType::float32, matrix, 2);
  const HostArray mean = random_normal(DType::float32, {197}, 3);
  const HostArray rstd = random_normal(DType::float32, {197}, 4);
  const HostArray gamma = random_normal(DType::float32, {96}, 5);
  const int threads = omp_get_max_threads();
  std::vector<HostArray> results;
  for (const int n : {1, 2, 3}) {
    omp_set_num_threads(n);
    HostArray& dgamma = results.emplace_back(DType::float32, Shape{96});
    LayerNormBackward args{};
    args.sum = sum;
    args.mean = mean;
    args.rstd = rstd;
    args.gamma = gamma;
    args.d_normalized = d_normalized;
    args.dgamma = dgamma;
    args.dgamma_mode = GradientMode::overwrite;
    layer_norm_backward(args, *stream);
  }
  omp_set_num_threads(threads);
  check_close(results[1], results[0], 0.0, "two threads");
  check_close(results[2], results[0], 0.0, "three threads");
}

TEST_CASE("layer_norm's oracle has the gradient that central differences give") {
  const Shape matrix{4, 6};
  const HostArray x = random_normal(DType::float64, matrix, 1);
  const HostArray branch = random_normal(DType::float64, matrix, 2);
  const HostArray scale = from_values(DType::float64, {3}, {0.0, 1.25, 0.5});
  const HostArray row_sequence = row_sequences(4);
  const HostArray gamma = random_normal(DType::float64, {6}, 3);
  const HostArray beta = random_normal(DType::float64, {6}, 4);
  const HostArray d_sum = random_normal(DType::float64, matrix, 5);
  const HostArray d_normalized = random_normal(DType::float64, matrix, 6);
  HostArray sum(DType::float64, matrix);
  HostArray y(DType::float64, matrix);
  HostArray mean(DType::float64, {4});
  HostArray rstd(DType::float64, {4});
  const auto loss = [&] {
    reference::layer_norm_forward({.x = x,
                                   .branch = branch,
                                   .branch_scale = scale,
                                   .row_sequence = row_sequence,
                                   .gamma = gamma,
                                   .beta = beta,
                                   .eps = 1e-3,
                                   .sum = sum,
                                   .normalized = y,
                                   .mean = mean,
                                   .rstd = rstd});
    double total = 0;
    for (std::int64_t i = 0; i < 24; ++i) total += sum.at(i) * d_sum.at(i) + y.at(i) * d_normalized.at(i);
    return total;
  };
  loss();
  HostArray dx(DType::float64, matrix);
  HostArray d_branch(DType::float64, matrix);
  HostArray dgamma(DType::float64, {6});
  HostArray dbeta(DType::float64, {6});
  constexpr auto kOverwrite = GradientMode::overwrite;
  reference::layer_norm_backward({.sum = sum,
                                  .mean = mean,
                                  .rstd = rstd,
                                  .gamma = gamma,
                                  .d_normalized = d_normalized,
                                  .d_sum = d_sum,
                                  .branch_scale = scale,
                                  .row_sequence = row_sequence,
                                  .dx = dx,
                                  .dx_mode = kOverwrite,
                                  .d_branch = d_branch,
                                  .d_branch_mode = kOverwrite,
                                  .dgamma = dgamma,
                                  .dgamma_mode = kOverwrite,
                                  .dbeta = dbeta,
                                  .dbeta_mode = kOverwrite});
  check_gradient(loss, x, dx, 1e-7, "dx");
  check_gradient(loss, branch, d_branch, 1e-7, "d_branch");
  check_gradient(loss, gamma, dgamma, 1e-7, "dgamma");
  check_gradient(loss, beta, dbeta, 1e-7, "dbeta");
}

TEST_CASE("layer_norm says what is wrong with its arguments") {
  const auto stream = make_cpu_stream();
  const HostArray x = random_normal(DType::float32, {2, 8}, 1);
  const HostArray gamma = random_normal(DType::float32, {7}, 2);
  HostArray y(DType::float32, {2, 8});
  LayerNormForward args{};
  args.x = x;
  args.gamma = gamma;
  args.beta = gamma;
  args.normalized = y;
  CHECK_THROWS_AS(layer_norm_forward(args, *stream), Error);
}
