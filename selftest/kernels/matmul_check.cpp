#include "kernels/matmul/matmul.h"
#include "selftest/kernels/kernel_check.h"

namespace dino {
namespace {

void matmul_check(KernelBench& b) {
  struct Case {
    std::int64_t m, n, k;
    bool transpose_a, transpose_b, gelu, accumulate;
  };
  // A layer with bias and GELU, its weight gradient, the gradient of its input; and an odd size.
  for (const Case& c : {Case{37, 384, 96, false, true, true, false}, Case{96, 64, 74, true, false, false, true},
                        Case{64, 96, 384, false, false, false, false}, Case{5, 7, 3, false, false, false, false}}) {
    const Value a = b.normal(c.transpose_a ? Shape{c.k, c.m} : Shape{c.m, c.k});
    const Value w = b.normal(c.transpose_b ? Shape{c.n, c.k} : Shape{c.k, c.n}, 0.1);
    const Value bias = b.normal(kFloat, {c.n});
    const DType type = c.accumulate ? kFloat : b.dtype();
    const Value y = c.accumulate ? b.updated(type, {c.m, c.n}) : b.result(type, {c.m, c.n});
    b.run(
        [&](At at) {
          return Matmul{.a = at(a),
                        .b = at(w),
                        .bias = c.gelu ? at(bias) : Array(),
                        .y = at(y),
                        .transpose_a = c.transpose_a,
                        .transpose_b = c.transpose_b,
                        .mode = c.accumulate ? kAccumulate : kOverwrite,
                        .gelu = c.gelu};
        },
        matmul, reference::matmul,
        // Where the bias or the product is rounded before the GELU: two roundings, of which a GELU makes 1.3 times as
        // much.
        {{"y", y, type == kFloat ? 2e-6 : (c.gelu ? 2.3 : 1) * kBf16}});
  }
}

}  // namespace

KernelChecks matmul_checks() {
  static constexpr KernelCheck kChecks[] = {
      {"matmul", true, matmul_check},
  };
  return kChecks;
}

}  // namespace dino
