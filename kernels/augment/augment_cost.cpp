#include "kernels/augment/augment.h"

#include "kernels/common/operation_cost.h"

namespace dino {

using namespace cost;

OperationCost cost_of(const AugmentCrop& a, Stream&) {
  return {.group = kCrops, .work = "one", .size = size_of_array(a.output), .bytes = bytes_of({a.output})};
}

OperationCost cost_of(const AugmentCrops& a, Stream&) {
  return {.group = kCrops, .work = "batch", .size = size_of_array(a.output), .bytes = bytes_of({a.output})};
}

}  // namespace dino
