#include "kernels/l2_normalize/l2_normalize.h"
#include "selftest/kernels/kernel_check.h"

namespace dino {
namespace {

void l2_normalize_check(KernelBench& b) {
  for (const Shape& shape : {Shape{3, 7}, Shape{64, 256}}) {
    const Value x = b.normal(shape, 0.3, 0.1), y = b.result(shape);
    b.run([&](At at) { return L2Normalize{.x = at(x), .y = at(y)}; }, l2_normalize, reference::l2_normalize,
          {{"y", y, b.bound(1e-6, kBf16)}});
  }
}

void l2_normalize_backward_check(KernelBench& b) {
  for (const Shape& shape : {Shape{3, 7}, Shape{64, 256}}) {
    const Value x = b.normal(shape, 0.3, 0.1), dy = b.normal(shape), dx = b.result(shape);
    b.run([&](At at) { return L2NormalizeBackward{.x = at(x), .dy = at(dy), .dx = at(dx), .mode = kOverwrite}; },
          l2_normalize_backward, reference::l2_normalize_backward, {{"dx", dx, b.bound(1e-6, kBf16)}});
  }
}

}  // namespace

KernelChecks l2_normalize_checks() {
  static constexpr KernelCheck kChecks[] = {
      {"l2_normalize", true, l2_normalize_check},
      {"l2_normalize_backward", true, l2_normalize_backward_check},
  };
  return kChecks;
}

}  // namespace dino
