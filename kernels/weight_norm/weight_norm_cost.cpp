#include "kernels/weight_norm/weight_norm.h"

#include "kernels/common/operation_cost.h"

namespace dino {

using namespace cost;

OperationCost cost_of(const WeightNorm& a, Stream&) {
  return {.group = kHead,
          .work = options(a.w.dtype()),
          .size = size_of_array(a.v),
          .bytes = bytes_of({a.v, a.w}),
          .flops = 3 * count(a.v)};
}

OperationCost cost_of(const WeightNormBackward& a, Stream&) {
  return {.group = kHead,
          .work = options(a.dw.dtype(), a.dv_mode),
          .size = size_of_array(a.v),
          .bytes = bytes_of({a.v, a.dw}) + written(a.dv, a.dv_mode),
          .flops = 7 * count(a.v)};
}

}  // namespace dino
