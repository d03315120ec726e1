#include "kernels/l2_normalize/l2_normalize.h"

#include "kernels/common/operation_cost.h"

namespace dino {

using namespace cost;

OperationCost cost_of(const L2Normalize& a, Stream&) {
  return {.group = kHead,
          .work = options(a.x.dtype()),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x, a.y}),
          .flops = 3 * count(a.x),
          .type = a.x.dtype()};
}

OperationCost cost_of(const L2NormalizeBackward& a, Stream&) {
  if (a.mode == GradientMode::ignore) return {.group = kHead};
  return {.group = kHead,
          .work = options(a.x.dtype(), a.mode),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x, a.dy}) + written(a.dx, a.mode),
          .flops = 7 * count(a.x),
          .type = a.x.dtype()};
}

}  // namespace dino
