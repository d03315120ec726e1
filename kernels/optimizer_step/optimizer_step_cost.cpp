#include "kernels/optimizer_step/optimizer_step.h"

#include "kernels/common/operation_cost.h"

namespace dino {

using namespace cost;

OperationCost cost_of(const GradientNorms& a, Stream&) {
  return {.group = kOptimizer,
          .work = "",
          .size = size_of_array(a.gradient),
          .bytes = bytes_of({a.gradient, a.student}),
          .flops = 2 * count(a.gradient)};
}

OperationCost cost_of(const OptimizerStep& a, Stream&) {
  return {.group = kOptimizer,
          .work = fmt::format("{}{}", static_cast<int>(a.kind), a.student_working ? ", working copies" : ""),
          .size = size_of_array(a.student),
          .bytes = bytes_of({a.gradient, a.student_working, a.teacher_working}) +
                   2 * bytes_of({a.student, a.first_moment, a.second_moment, a.teacher}),
          .flops = 20 * count(a.student)};
}

}  // namespace dino
