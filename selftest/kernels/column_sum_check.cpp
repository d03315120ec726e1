#include "kernels/column_sum/column_sum.h"
#include "selftest/kernels/kernel_check.h"

namespace dino {
namespace {

void column_sum_check(KernelBench& b) {
  for (const Shape& shape : {Shape{65, 33}, Shape{700, 384}}) {
    const Value x = b.normal(shape, 1, 0.5), y = b.updated(kFloat, {shape[1]});
    b.run([&](At at) { return ColumnSum{.x = at(x), .y = at(y), .mode = kAccumulate}; }, column_sum,
          reference::column_sum, {{"y", y, 2e-6}});
  }
}

}  // namespace

KernelChecks column_sum_checks() {
  static constexpr KernelCheck kChecks[] = {
      {"column_sum", true, column_sum_check},
  };
  return kChecks;
}

}  // namespace dino
