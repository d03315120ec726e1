#include "kernels/gelu/gelu.h"
#include "selftest/kernels/kernel_check.h"

namespace dino {
namespace {

void gelu_forward_check(KernelBench& b) {
  for (const Shape& shape : {Shape{7, 9}, Shape{37, 1536}}) {
    const Value x = b.normal(shape, 2), y = b.result(shape);
    b.run([&](At at) { return GeluForward{.x = at(x), .y = at(y)}; }, gelu_forward, reference::gelu_forward,
          {{"y", y, b.bound(1e-6, kBf16)}});
  }
}

void gelu_backward_check(KernelBench& b) {
  for (const Shape& shape : {Shape{7, 9}, Shape{37, 1536}}) {
    const Value x = b.normal(shape, 1.5), dy = b.normal(shape), dx = b.result(shape),
                dbias = b.result(kFloat, {shape[1]});
    b.run(
        [&](At at) {
          return GeluBackward{
              .x = at(x), .dy = at(dy), .dx = at(dx), .mode = kOverwrite, .dbias = at(dbias), .dbias_mode = kOverwrite};
        },
        gelu_backward, reference::gelu_backward, {{"dx", dx, b.bound(1e-6, kBf16)}, {"dbias", dbias, 2e-6}});
  }
}

}  // namespace

KernelChecks gelu_checks() {
  static constexpr KernelCheck kChecks[] = {
      {"gelu_backward", true, gelu_backward_check},
      {"gelu_forward", true, gelu_forward_check},
  };
  return kChecks;
}

}  // namespace dino
