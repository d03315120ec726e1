#include "engine/ops/dino_loss.h"

#include "kernels/dino_loss/dino_loss.h"

namespace dino {

DinoLoss dino_loss(Tape& tape, const Tensor& student_logits, const Tensor& teacher_logits, const Tensor& center,
                   const DinoLossOptions& options) {
  const std::int64_t images = options.images;
  require(student_logits.extent(0) == options.student_views * images &&
              teacher_logits.extent(0) == options.teacher_views * images,
          "dino_loss", "logits must have V·B and G·B rows; got {} and {}, expected {}·{} and {}·{}",
          student_logits.shape().to_string(), teacher_logits.shape().to_string(), options.student_views, images,
          options.teacher_views, images);
  Context& context = tape.context();
  DinoLoss loss;
  loss.result.values = context.empty({3}, DType::float32);
  loss.result.loss = loss.result.values.rows(0, 1);
  loss.result.teacher_entropy = loss.result.values.rows(1, 2);
  loss.result.kl = loss.result.values.rows(2, 3);
  loss.result.teacher_sum = context.empty({student_logits.extent(1)}, DType::float32);
  if (tape.recording()) loss.student_gradient = student_logits.detach();
  dino_loss_with_gradient({.student = student_logits.array(),
                           .teacher = teacher_logits.array(),
                           .center = center.array(),
                           .images = options.images,
                           .student_temperature = options.student_temperature,
                           .teacher_temperature = options.teacher_temperature,
                           .gradient_scale = options.gradient_scale,
                           .student_gradient = loss.student_gradient.array(),
                           .loss = loss.result.loss.array(),
                           .teacher_entropy = loss.result.teacher_entropy.array(),
                           .kl = loss.result.kl.array(),
                           .teacher_sum = loss.result.teacher_sum.array()},
                          tape.stream());
  return loss;
}

void update_center(Stream& stream, const Tensor& center, const Tensor& teacher_sum, std::int64_t rows, double momentum,
                   const Tensor& non_finite) {
  center_update({.sum = teacher_sum.array(),
                 .rows = rows,
                 .momentum = momentum,
                 .center = center.array(),
                 .non_finite = non_finite.array()},
                stream);
}

}  // namespace dino
