#include "kernels/batch_norm/batch_norm.h"

#include "kernels/common/operation_cost.h"

namespace dino {

using namespace cost;

OperationCost cost_of(const BatchNormSums& a, Stream&) {
  return {.group = kHead,
          .work = options(a.x.dtype()),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x}),
          .flops = count(a.x),
          .type = a.x.dtype()};
}

OperationCost cost_of(const BatchNormSquares& a, Stream&) {
  return {.group = kHead,
          .work = options(a.x.dtype()),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x}),
          .flops = 3 * count(a.x),
          .type = a.x.dtype()};
}

OperationCost cost_of(const BatchNormForward& a, Stream&) {
  return {.group = kHead,
          .work = options(a.x.dtype()),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x, a.y}),
          .flops = 2 * count(a.x),
          .type = a.x.dtype()};
}

OperationCost cost_of(const BatchNormBackwardSums& a, Stream&) {
  return {.group = kHead,
          .work = options(a.x.dtype()),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x, a.dy}),
          .flops = 5 * count(a.x),
          .type = a.x.dtype()};
}

OperationCost cost_of(const BatchNormBackward& a, Stream&) {
  return {.group = kHead,
          .work = options(a.x.dtype(), a.mode),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x, a.dy}) + written(a.dx, a.mode),
          .flops = 5 * count(a.x),
          .type = a.x.dtype()};
}

}  // namespace dino
