#include "kernels/optimizer_step/optimizer_step.h"

namespace dino {

void check_optimizer_step(const GradientNorms& args) {
  constexpr const char* kWhere = "gradient_norms";
  const Shape per_segment{static_cast<std::int64_t>(args.segments.size())};
  require_array(args.norms, DType::float32, per_segment, kWhere, "norms");
  require_array(args.non_finite, DType::int32, {1}, kWhere, "non_finite");
  if (args.losses) require_array(args.losses, DType::float32, args.losses.shape(), kWhere, "losses");
  require(args.gradient.dtype() == DType::float32, kWhere, "gradient must be float32; got {}",
          name_of(args.gradient.dtype()));
  if (args.student) {
    require_array(args.student, DType::float32, args.gradient.shape(), kWhere, "student");
    require_array(args.parameter_norms, DType::float32, per_segment, kWhere, "parameter_norms");
    require_array(args.update_norms, DType::float32, per_segment, kWhere, "update_norms");
  }
}

void check_optimizer_step(const OptimizerStep& args) {
  constexpr const char* kWhere = "optimizer_step";
  const Shape& flat = args.student.shape();
  const Shape per_segment{static_cast<std::int64_t>(args.segments.size())};
  require_array(args.student, DType::float32, flat, kWhere, "student");
  require_array(args.gradient, DType::float32, flat, kWhere, "gradient");
  require_array(args.first_moment, DType::float32, flat, kWhere, "first_moment");
  if (args.kind == OptimizerKind::adamw)
    require_array(args.second_moment, DType::float32, flat, kWhere, "second_moment");
  if (args.clip > 0) require_array(args.norms, DType::float32, per_segment, kWhere, "norms");
  if (args.kind == OptimizerKind::lars) {
    require_array(args.parameter_norms, DType::float32, per_segment, kWhere, "parameter_norms");
    require_array(args.update_norms, DType::float32, per_segment, kWhere, "update_norms");
  }
  if (args.non_finite) require_array(args.non_finite, DType::int32, {1}, kWhere, "non_finite");
  if (args.skipped) require_array(args.skipped, DType::int32, per_segment, kWhere, "skipped");
  if (args.student_working) require_array(args.student_working, DType::bfloat16, flat, kWhere, "student_working");
  if (args.teacher) require_array(args.teacher, DType::float32, flat, kWhere, "teacher");
  if (args.teacher_working) require_array(args.teacher_working, DType::bfloat16, flat, kWhere, "teacher_working");
}

}  // namespace dino
