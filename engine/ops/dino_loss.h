#pragma once

#include "engine/tape.h"

namespace dino {

struct DinoLossOptions {
  int images = 0;         // B of this micro-batch
  int student_views = 0;  // V; the first teacher_views of them are the teacher's views
  int teacher_views = 2;
  double student_temperature = 0.1;
  double teacher_temperature = 0.04;
  double gradient_scale = 1.0;  // 1 / micro-batches per step
};

struct DinoLossResult {
  Tensor loss;             // (1) fp32: mean over the pairs (i, v), v ≠ i, and over the images
  Tensor teacher_entropy;  // (1) fp32: mean over the teacher's rows, nats
  Tensor kl;               // (1) fp32: loss minus mean entropy of the pairs' teacher: mean KL divergence, nats
  Tensor values;           // (3) fp32: the three above, one behind the other
  Tensor teacher_sum;      // (K) fp32: sum of the raw teacher logits over this micro-batch's rows, for the center
};

struct DinoLoss {
  DinoLossResult result;
  /// (V·B, K), the logits' element type, times gradient_scale. It takes the place of student_logits, whose elements are
  /// overwritten. Empty when the tape does not record; the logits are then left as they are.
  Tensor student_gradient;
};

/// The DINO loss of logits (V·B, K) and (teacher_views·B, K), view-major, with `center` (K) fp32.
/// Backward starts from it: tape.backward(student_logits, loss.student_gradient).
DinoLoss dino_loss(Tape& tape, const Tensor& student_logits, const Tensor& teacher_logits, const Tensor& center,
                   const DinoLossOptions& options);

/// center = momentum · center + (1 - momentum) · teacher_sum / rows, where `teacher_sum` (K) is over the `rows` teacher
/// rows of all ranks and micro-batches. Comes after the loss, which uses the center as it was. With `non_finite` (1)
/// int32 other than 0 the center stays as it is.
void update_center(Stream& stream, const Tensor& center, const Tensor& teacher_sum, std::int64_t rows, double momentum,
                   const Tensor& non_finite = {});

}  // namespace dino
