#include "kernels/dino_loss/dino_loss.h"

#include "kernels/common/operation_cost.h"

namespace dino {

using namespace cost;

OperationCost cost_of(const DinoLossWithGradient& a, Stream&) {
  return {.group = kLoss,
          .work = options(a.student.dtype()) + (a.student_gradient ? "" : ", no gradient"),
          .size = size_of_array(a.student) + size_of_array(a.teacher),
          .bytes = bytes_of({a.student, a.teacher, a.student_gradient}),
          .flops = 40 * (count(a.student) + count(a.teacher)),
          .type = a.student.dtype()};
}

OperationCost cost_of(const CenterUpdate& a, Stream&) {
  return {.group = kLoss,
          .work = "",
          .size = size_of_array(a.center),
          .bytes = bytes_of({a.sum, a.center, a.center}),
          .flops = 3 * count(a.center)};
}

}  // namespace dino
