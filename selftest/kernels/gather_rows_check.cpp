#include "kernels/gather_rows/gather_rows.h"
#include "selftest/kernels/kernel_check.h"

namespace dino {
namespace {

const std::vector<std::int32_t> kChosenRows{17, 3, 0, 12};

void gather_rows_check(KernelBench& b) {
  for (const std::int64_t width : {7, 384}) {
    const Value x = b.normal({18, width}), rows = b.integers({4}, kChosenRows), y = b.result({4, width});
    b.run([&](At at) { return GatherRows{.x = at(x), .rows = at(rows), .y = at(y)}; }, gather_rows,
          reference::gather_rows, {{"y", y, 0}});
  }
}

void gather_rows_backward_check(KernelBench& b) {
  for (const std::int64_t width : {7, 384}) {
    const Value dy = b.normal({4, width}), rows = b.integers({4}, kChosenRows), dx = b.result({18, width});
    b.run([&](At at) { return GatherRowsBackward{.dy = at(dy), .rows = at(rows), .dx = at(dx), .mode = kOverwrite}; },
          gather_rows_backward, reference::gather_rows_backward, {{"dx", dx, 0}});
  }
}

}  // namespace

KernelChecks gather_rows_checks() {
  static constexpr KernelCheck kChecks[] = {
      {"gather_rows", true, gather_rows_check},
      {"gather_rows_backward", true, gather_rows_backward_check},
  };
  return kChecks;
}

}  // namespace dino
