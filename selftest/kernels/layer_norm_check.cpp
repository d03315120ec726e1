#include "kernels/layer_norm/layer_norm.h"
#include "selftest/kernels/kernel_check.h"

namespace dino {
namespace {

void layer_norm_forward_check(KernelBench& b) {
  for (const Shape& matrix : {Shape{5, 33}, Shape{37, 384}}) {
    const Shape rows{matrix[0]}, columns{matrix[1]};
    std::vector<std::int32_t> sequences;
    for (int t = 0; t < matrix[0]; ++t) sequences.push_back(t % 2);
    const Value x = b.normal(matrix), branch = b.normal(matrix), scale = b.normal(kFloat, {2}, 0.1, 1),
                sequence = b.integers(rows, sequences);
    const Value gamma = b.normal(kFloat, columns, 0.2, 1), beta = b.normal(kFloat, columns);
    const Value sum = b.result(matrix), normalized = b.result(matrix), mean = b.result(kFloat, rows),
                rstd = b.result(kFloat, rows);
    b.run(
        [&](At at) {
          return LayerNormForward{.x = at(x),
                                  .branch = at(branch),
                                  .branch_scale = at(scale),
                                  .row_sequence = at(sequence),
                                  .gamma = at(gamma),
                                  .beta = at(beta),
                                  .sum = at(sum),
                                  .normalized = at(normalized),
                                  .mean = at(mean),
                                  .rstd = at(rstd)};
        },
        layer_norm_forward, reference::layer_norm_forward,
        {{"sum", sum, b.bound(2e-6, kBf16)},
         {"normalized", normalized, b.bound(2e-6, 2 * kBf16)},
         {"rstd", rstd, b.bound(2e-6, kBf16)}});
  }
}

void layer_norm_backward_check(KernelBench& b) {
  for (const Shape& matrix : {Shape{5, 33}, Shape{37, 384}}) {
    const Shape rows{matrix[0]}, columns{matrix[1]};
    const Value sum = b.normal(matrix), mean = b.normal(kFloat, rows, 0.1), rstd = b.normal(kFloat, rows, 0.1, 1),
                gamma = b.normal(kFloat, columns, 0.2, 1), dy = b.normal(matrix), d_sum = b.normal(matrix);
    const Value dx = b.result(matrix), d_branch = b.result(matrix), dgamma = b.updated(kFloat, columns),
                dbeta = b.updated(kFloat, columns);
    b.run(
        [&](At at) {
          return LayerNormBackward{.sum = at(sum),
                                   .mean = at(mean),
                                   .rstd = at(rstd),
                                   .gamma = at(gamma),
                                   .d_normalized = at(dy),
                                   .d_sum = at(d_sum),
                                   .branch_scale = {},
                                   .row_sequence = {},
                                   .dx = at(dx),
                                   .dx_mode = kOverwrite,
                                   .d_branch = at(d_branch),
                                   .d_branch_mode = kOverwrite,
                                   .dgamma = at(dgamma),
                                   .dgamma_mode = kAccumulate,
                                   .dbeta = at(dbeta),
                                   .dbeta_mode = kAccumulate};
        },
        layer_norm_backward, reference::layer_norm_backward,
        {{"dx", dx, b.bound(2e-6, kBf16)},
         {"d_branch", d_branch, b.bound(2e-6, kBf16)},
         {"dgamma", dgamma, 2e-6},
         {"dbeta", dbeta, 2e-6}});
  }
}

}  // namespace

KernelChecks layer_norm_checks() {
  static constexpr KernelCheck kChecks[] = {
      {"layer_norm_backward", true, layer_norm_backward_check},
      {"layer_norm_forward", true, layer_norm_forward_check},
  };
  return kChecks;
}

}  // namespace dino
