#include "kernels/matmul/matmul.h"

#include "kernels/common/operation_cost.h"

namespace dino {

using namespace cost;

OperationCost cost_of(const Matmul& a, Stream&) {
  if (a.mode == GradientMode::ignore) return {.group = kGemm};
  const auto [m, n, k] = checked_size(a);
  return {.group = kGemm,
          .work = fmt::format("{}{}{}{}{} to {}", a.transpose_a ? "T" : "N", a.transpose_b ? "T" : "N",
                              a.bias ? " bias" : "", a.gelu ? a.preactivation ? " gelu keep" : " gelu" : "",
                              " " + options(a.a.dtype(), a.mode), name_of(a.y.dtype())),
          .size = fmt::format("{} x {} x {}", m, n, k),
          .bytes = bytes_of({a.a, a.b, a.preactivation}) + written(a.y, a.mode),
          .flops = 2.0 * static_cast<double>(m * n) * static_cast<double>(k),
          .type = a.a.dtype()};
}

}  // namespace dino
