#include "kernels/cast/cast.h"

#include "kernels/common/operation_cost.h"

namespace dino {

using namespace cost;

OperationCost cost_of(const Cast& a, Stream&) {
  return {.group = kOptimizer,
          .work = fmt::format("{} to {}", name_of(a.x.dtype()), name_of(a.y.dtype())),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x, a.y})};
}

}  // namespace dino
