#include "kernels/cast/cast.h"
#include "selftest/kernels/kernel_check.h"

namespace dino {
namespace {

void cast_check(KernelBench& b) {
  const Value x = b.normal(kFloat, {1003}), narrow = b.result(DType::bfloat16, {1003});
  b.run([&](At at) { return Cast{.x = at(x), .y = at(narrow)}; }, cast, reference::cast, {{"bf16", narrow, kBf16}});
  const Value y = b.normal(DType::bfloat16, {1003}), wide = b.result(kFloat, {1003});
  b.run([&](At at) { return Cast{.x = at(y), .y = at(wide)}; }, cast, reference::cast, {{"fp32", wide, 0}});
}

}  // namespace

KernelChecks cast_checks() {
  static constexpr KernelCheck kChecks[] = {
      {"cast", false, cast_check},
  };
  return kChecks;
}

}  // namespace dino
