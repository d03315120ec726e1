#include "kernels/column_sum/column_sum.h"

#include "kernels/common/operation_cost.h"

namespace dino {

using namespace cost;

OperationCost cost_of(const ColumnSum& a, Stream&) {
  if (a.mode == GradientMode::ignore) return {.group = kSums};
  return {.group = kSums,
          .work = options(a.x.dtype()),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x}),
          .type = a.x.dtype()};
}

}  // namespace dino
