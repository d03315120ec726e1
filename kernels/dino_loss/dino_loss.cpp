#include "kernels/dino_loss/dino_loss.h"

namespace dino {

DinoLossSizes dino_loss_sizes(const DinoLossWithGradient& args) {
  constexpr const char* kWhere = "dino_loss";
  require(args.images >= 1, kWhere, "at least one image is needed; got {}", args.images);
  require(args.student.shape().rank() == 2 && args.student.extent(1) >= 1 && args.student.extent(0) % args.images == 0,
          kWhere, "student logits must be (V·B, K); got {} for B = {}", args.student.shape().to_string(), args.images);
  const std::int64_t columns = args.student.extent(1);
  require(args.teacher.shape().rank() == 2 && args.teacher.extent(1) == columns &&
              args.teacher.extent(0) % args.images == 0,
          kWhere, "teacher logits must be (G·B, {}); got {} for B = {}", columns, args.teacher.shape().to_string(),
          args.images);
  const DinoLossSizes sizes{args.images, args.student.extent(0) / args.images, args.teacher.extent(0) / args.images,
                            columns};
  require(sizes.teacher_views >= 1 && sizes.teacher_views <= kMaxTeacherViews, kWhere,
          "1 to {} teacher views are supported; got {}", kMaxTeacherViews, sizes.teacher_views);
  require(sizes.student_views >= 2 && sizes.student_views >= sizes.teacher_views, kWhere,
          "the student needs two views and all of the teacher's; got {} and {}", sizes.student_views,
          sizes.teacher_views);
  require(args.student_temperature > 0 && args.teacher_temperature > 0, kWhere,
          "temperatures must be above 0; got {} and {}", args.student_temperature, args.teacher_temperature);
  require(!args.student_gradient || (args.student_gradient.dtype() == args.student.dtype() &&
                                     args.student_gradient.shape() == args.student.shape()),
          kWhere, "the gradient has the student logits' type and shape; got {} {}, expected {} {}",
          name_of(args.student_gradient.dtype()), args.student_gradient.shape().to_string(),
          name_of(args.student.dtype()), args.student.shape().to_string());
  require(args.center.shape() == Shape{columns} && args.teacher_sum.shape() == Shape{columns}, kWhere,
          "center and teacher_sum must be ({}); got {} and {}", columns, args.center.shape().to_string(),
          args.teacher_sum.shape().to_string());
  return sizes;
}

DinoLossSizes check_dino_loss(const DinoLossWithGradient& args) {
  constexpr const char* kWhere = "dino_loss";
  const DinoLossSizes sizes = dino_loss_sizes(args);
  require_array(args.student, args.student.dtype(), args.student.shape(), kWhere, "student");
  require_array(args.teacher, args.teacher.dtype(), args.teacher.shape(), kWhere, "teacher");
  require_array(args.center, DType::float32, Shape{sizes.columns}, kWhere, "center");
  require_array(args.teacher_sum, DType::float32, Shape{sizes.columns}, kWhere, "teacher_sum");
  require_array(args.loss, DType::float32, Shape{1}, kWhere, "loss");
  require_array(args.teacher_entropy, DType::float32, Shape{1}, kWhere, "teacher_entropy");
  require_array(args.kl, DType::float32, Shape{1}, kWhere, "kl");
  return sizes;
}

void check_center_update(const CenterUpdate& args) {
  constexpr const char* kWhere = "center_update";
  require(args.rows >= 1, kWhere, "the sum must be of at least one row; got {}", args.rows);
  require_array(args.center, DType::float32, args.center.shape(), kWhere, "center");
  require_array(args.sum, DType::float32, args.center.shape(), kWhere, "sum");
  if (args.non_finite) require_array(args.non_finite, DType::int32, {1}, kWhere, "non_finite");
}

}  // namespace dino
