#include "kernels/batch_norm/batch_norm.h"
#include "selftest/kernels/kernel_check.h"

namespace dino {
namespace {

void batch_norm_check(KernelBench& b) {
  for (const Shape& shape : {Shape{5, 7}, Shape{40, 512}}) {
    const Shape columns{shape[1]}, more{shape[1] + 1}, two{2, shape[1]};
    const Value x = b.normal(shape, 2, 0.5), dy = b.normal(shape), gamma = b.normal(kFloat, columns, 0.2, 1),
                beta = b.normal(kFloat, columns, 0.2);
    const Value sums_out = b.result(kFloat, more);
    b.run([&](At at) { return BatchNormSums{.x = at(x), .sums = at(sums_out)}; }, batch_norm_sums,
          reference::batch_norm_sums, {{"sums", sums_out, 2e-6}});
    const Value sums = b.input_of(kFloat, sums_out), squares_out = b.result(kFloat, columns);
    b.run([&](At at) { return BatchNormSquares{.x = at(x), .sums = at(sums), .squares = at(squares_out)}; },
          batch_norm_squares, reference::batch_norm_squares, {{"squares", squares_out, 2e-6}});
    const Value squares = b.input_of(kFloat, squares_out), y = b.result(shape), mean_out = b.result(kFloat, columns),
                std_out = b.result(kFloat, columns), statistics = b.result(kFloat, two);
    b.run(
        [&](At at) {
          return BatchNormForward{.x = at(x),
                                  .sums = at(sums),
                                  .squares = at(squares),
                                  .gamma = at(gamma),
                                  .beta = at(beta),
                                  .y = at(y),
                                  .mean = at(mean_out),
                                  .inverse_std = at(std_out),
                                  .statistics = at(statistics)};
        },
        batch_norm_forward, reference::batch_norm_forward,
        {{"y", y, b.bound(2e-6, kBf16)}, {"statistics", statistics, 2e-6}});
    const Value mean = b.input_of(kFloat, mean_out), inverse_std = b.input_of(kFloat, std_out),
                d_sums_out = b.result(kFloat, two), d_gamma = b.result(kFloat, columns),
                d_beta = b.result(kFloat, columns);
    b.run(
        [&](At at) {
          return BatchNormBackwardSums{.x = at(x),
                                       .dy = at(dy),
                                       .mean = at(mean),
                                       .inverse_std = at(inverse_std),
                                       .sums = at(d_sums_out),
                                       .d_gamma = at(d_gamma),
                                       .d_beta = at(d_beta),
                                       .gamma_mode = kOverwrite,
                                       .beta_mode = kOverwrite};
        },
        batch_norm_backward_sums, reference::batch_norm_backward_sums,
        {{"sums of the gradient", d_sums_out, 5e-6}, {"d_gamma", d_gamma, 5e-6}, {"d_beta", d_beta, 5e-6}});
    const Value d_sums = b.input_of(kFloat, d_sums_out), dx = b.result(shape);
    b.run(
        [&](At at) {
          return BatchNormBackward{.x = at(x),
                                   .dy = at(dy),
                                   .mean = at(mean),
                                   .inverse_std = at(inverse_std),
                                   .gamma = at(gamma),
                                   .sums = at(d_sums),
                                   .forward_sums = at(sums),
                                   .dx = at(dx),
                                   .mode = kOverwrite};
        },
        batch_norm_backward, reference::batch_norm_backward, {{"dx", dx, b.bound(3e-6, kBf16)}});
  }
}

}  // namespace

KernelChecks batch_norm_checks() {
  static constexpr KernelCheck kChecks[] = {
      {"batch_norm", true, batch_norm_check},
  };
  return kChecks;
}

}  // namespace dino
