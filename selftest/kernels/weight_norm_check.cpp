#include "kernels/weight_norm/weight_norm.h"
#include "selftest/kernels/kernel_check.h"

namespace dino {
namespace {

void weight_norm_check(KernelBench& b) {
  for (const Shape& shape : {Shape{3, 7}, Shape{131, 256}}) {
    const Value v = b.normal(kFloat, shape, 0.04), g = b.normal(kFloat, {shape[0], 1}, 0.2, 1), w = b.result(shape);
    b.run([&](At at) { return WeightNorm{.v = at(v), .g = at(g), .w = at(w)}; }, weight_norm, reference::weight_norm,
          {{"w", w, b.bound(1e-6, kBf16)}});
  }
}

void weight_norm_backward_check(KernelBench& b) {
  for (const Shape& shape : {Shape{3, 7}, Shape{131, 256}}) {
    const Value v = b.normal(kFloat, shape, 0.04), g = b.normal(kFloat, {shape[0], 1}, 0.2, 1), dw = b.normal(shape),
                dv = b.result(kFloat, shape), dg = b.result(kFloat, {shape[0], 1});
    b.run(
        [&](At at) {
          return WeightNormBackward{.v = at(v),
                                    .g = at(g),
                                    .dw = at(dw),
                                    .dv = at(dv),
                                    .dg = at(dg),
                                    .dv_mode = kOverwrite,
                                    .dg_mode = kOverwrite};
        },
        weight_norm_backward, reference::weight_norm_backward, {{"dv", dv, 2e-6}, {"dg", dg, 4e-6}});
  }
}

}  // namespace

KernelChecks weight_norm_checks() {
  static constexpr KernelCheck kChecks[] = {
      {"weight_norm", true, weight_norm_check},
      {"weight_norm_backward", true, weight_norm_backward_check},
  };
  return kChecks;
}

}  // namespace dino
