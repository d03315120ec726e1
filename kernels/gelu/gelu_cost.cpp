#include "kernels/gelu/gelu.h"

#include "kernels/common/operation_cost.h"

namespace dino {

using namespace cost;

OperationCost cost_of(const GeluForward& a, Stream&) {
  return {.group = kGelu,
          .work = options(a.x.dtype()),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x, a.y}),
          .flops = 30 * count(a.x),
          .type = a.x.dtype()};
}

OperationCost cost_of(const GeluBackward& a, Stream&) {
  if (a.mode == GradientMode::ignore) return {.group = kGelu};
  return {.group = kGelu,
          .work = options(a.x.dtype(), a.mode) + (a.dbias_mode == GradientMode::ignore ? "" : ", bias"),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x, a.dy}) + written(a.dx, a.mode),
          .flops = 35 * count(a.x),
          .type = a.x.dtype()};
}

}  // namespace dino
