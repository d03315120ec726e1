#pragma once

#include "kernels/common/array.h"
#include "kernels/common/operation.h"

namespace dino {

/// The DINO loss with its gradient in one operation. With s_v the student's logits of view v, z_i the teacher's of view
/// i,
///   t_i = softmax((z_i - center) / teacher_temperature), p_v = softmax(s_v / student_temperature),
///   loss = mean over images and over the pairs (i, v), v ≠ i, of -Σ_k t_ik ln p_vk,
///   gradient of s_v = gradient_scale (n_v p_v - Σ_{i≠v} t_i) / (student_temperature · pairs · B), n_v = pairs with
///   view v.
///
/// Rows are view-major: row v·B + b is view v of image b. V >= G; the first G student views are the teacher's views.
/// Traffic: both logits are read twice, the gradient is written once; nothing of the logits' size is held besides. The
/// first pass finds each row's maximum and sum of exponentials, the second one writes the gradient over the logits.
/// Two exponentials per logit make it compute-bound on the CPU.
/// Numerics: fp32 statistics relative to the row's maximum, sums over columns in double; any finite logits are safe.
/// NaN in a row of logits gives a NaN loss. Results do not depend on the number of threads. Source: arXiv 2104.14294
/// section 3.1; official main_dino.py:363-419.
struct DinoLossWithGradient {
  ConstArray student{};  // (V·B, K) float32 or bfloat16
  ConstArray teacher{};  // (G·B, K) float32 or bfloat16
  ConstArray center{};   // (K) float32
  int images = 0;        // B
  double student_temperature = 0.1;
  double teacher_temperature = 0.04;
  double gradient_scale = 1.0;
  Array student_gradient{};  // (V·B, K), the student's element type; may be `student` itself; empty: not computed
  Array loss{};              // (1) float32
  Array teacher_entropy{};   // (1) float32, mean over the teacher's rows, nats
  Array kl{};                // (1) float32, loss - teacher_entropy, nats
  Array teacher_sum{};       // (K) float32, column sums of the raw teacher logits
};
DINO_OPERATION(dino_loss_with_gradient, DinoLossWithGradient)

/// Most teacher views that an image may have.
inline constexpr int kMaxTeacherViews = 8;

/// What both sizes of a DinoLossWithGradient say, checked; throws Error where they disagree.
struct DinoLossSizes {
  std::int64_t images, student_views, teacher_views, columns;
  std::int64_t pairs() const { return teacher_views * (student_views - 1); }
};
DinoLossSizes dino_loss_sizes(const DinoLossWithGradient& args);
/// The same for kernels, which take the types declared above; the oracle computes in double.
DinoLossSizes check_dino_loss(const DinoLossWithGradient& args);

/// center = momentum · center + (1 - momentum) · sum / rows: the moving mean of the teacher's logits. Where
/// `non_finite` is not 0, the center stays as it is. Source: official main_dino.py:408-419.
struct CenterUpdate {
  ConstArray sum{};       // (K) float32, over the rows of all ranks and micro-batches
  std::int64_t rows = 0;  // how many rows that were
  double momentum = 0.9;
  Array center{};           // (K) float32, updated in place
  ConstArray non_finite{};  // (1) int32, as of optimizer_step; empty: as 0
};
DINO_OPERATION(center_update, CenterUpdate)

/// Throws Error unless types and shapes are as declared above.
void check_center_update(const CenterUpdate& args);

}  // namespace dino
