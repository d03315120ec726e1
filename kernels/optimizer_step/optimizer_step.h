#pragma once

#include "kernels/common/array.h"
#include "kernels/common/operation.h"

#include <span>

namespace dino {

enum class OptimizerKind : std::uint8_t { adamw, sgd, lars };

/// One parameter tensor's window of the flat arrays, and how it is updated in this step. Segments are sorted by offset
/// and do not overlap; elements between them (padding) are neither read nor written.
struct OptimizerSegment {
  std::int64_t offset = 0;
  std::int64_t size = 0;
  std::int64_t step = 0;  // AdamW: updates of this tensor, this one and skipped ones included; at least 1 where active
  double learning_rate = 0;
  double weight_decay = 0;          // used where `decayed`
  double teacher_momentum = 0.996;  // used where there is a teacher
  bool decayed = false;
  bool adapted = false;  // LARS: more than one dimension, so decay and adaptive rate apply
  bool active = true;    // has a gradient in this step; else only the teacher moves
};

/// norms[s] = ‖gradient of segment s‖₂, whether active or not, and what LARS needs besides. `non_finite` becomes 1 when
/// the gradient of an active segment, or `losses`, holds NaN or infinity; else it stays as it is: the caller sets it to
/// 0 before each step.
/// Traffic: reads the gradient (LARS: and the student) once.
/// Numerics: squares are summed in double; results do not depend on the number of threads.
struct GradientNorms {
  std::span<const OptimizerSegment> segments;  // (S), on the stream's device
  ConstArray gradient{};                       // (n) float32
  Array norms{};                               // (S) float32
  Array non_finite{};                          // (1) int32, read and written
  ConstArray losses{};                         // float32, any number of values that must be finite as well, or empty
  // For LARS, else empty:
  ConstArray student{};     // (n) float32
  Array parameter_norms{};  // (S) float32: ‖p‖
  Array update_norms{};     // (S) float32: ‖c g + weight_decay p‖, with c the clip factor below
  double clip = 0;          // as in OptimizerStep; changes update_norms only
};
DINO_OPERATION(gradient_norms, GradientNorms)

/// A whole optimiser step in one pass over memory. Per segment, with c = min(1, clip / (norm + 1e-6)) (1 where clip is
/// 0), g = c · gradient, λ the learning rate, w the weight decay (0 where not decayed), k = step - skipped:
///   AdamW  p *= 1 - λ w;  m = β₁ m + (1 - β₁) g;  v = β₂ v + (1 - β₂) g²;
///          p -= λ / (1 - β₁ᵏ) · m / (sqrt(v) / sqrt(1 - β₂ᵏ) + eps)
///   SGD    g += w p;  m = momentum · m + g;  p -= λ m
///   LARS   where adapted: g += w p;  g *= eta ‖p‖ / ‖g‖ (1 where a norm is 0).  m = momentum · m + g;  p -= λ m
/// then the student's working copy, the teacher t = teacher_momentum · t + (1 - teacher_momentum) p and its working
/// copy. Inactive segments keep their student values and moments; their teacher follows as any other. Where
/// `non_finite` is not 0, the step is skipped: `skipped` of every active segment goes up by 1 and nothing else is
/// written. So the count of updates is right also where the host fills in `step` before it knows of the skip. Traffic
/// for AdamW with bf16 copies: 20 bytes read and 20 written per element. What differs from step to step comes from the
/// device's memory, so that a recorded step can be replayed. Source: torch.optim.AdamW and SGD; official
/// utils.py:132-141 (clip), 553-591 (LARS); main_dino.py:341-345 (teacher).
struct OptimizerStep {
  std::span<const OptimizerSegment> segments;  // (S), on the stream's device
  OptimizerKind kind = OptimizerKind::adamw;
  double clip = 0;  // largest norm of a tensor's gradient; 0: no clipping
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double momentum = 0.9;    // SGD, LARS
  double lars_eta = 0.001;  // LARS
  // All (n), where not said otherwise:
  ConstArray gradient{};         // float32
  ConstArray norms{};            // (S) float32, from gradient_norms; empty when clip is 0
  ConstArray parameter_norms{};  // (S) float32, LARS only
  ConstArray update_norms{};     // (S) float32, LARS only
  ConstArray non_finite{};       // (1) int32, from gradient_norms; empty: as 0
  Array skipped{};               // (S) int32, skipped steps that `step` counts, read and written; empty: as 0
  Array student{};               // float32
  Array first_moment{};          // float32: Adam's m, or the momentum buffer, which starts at zero
  Array second_moment{};         // float32, AdamW only
  Array student_working{};       // bfloat16; empty in float32 runs
  Array teacher{};               // float32; empty: no teacher
  Array teacher_working{};       // bfloat16; empty in float32 runs
};
DINO_OPERATION(optimizer_step, OptimizerStep)

/// Throw Error unless types and shapes are as declared above. The table itself is checked on the CPU only.
void check_optimizer_step(const GradientNorms& args);
void check_optimizer_step(const OptimizerStep& args);

/// Factor that brings a gradient's norm down to `clip`; 1 where it is smaller, where clip is 0, and for a NaN norm.
constexpr double clip_factor(double clip, double norm) {
  const double factor = clip / (norm + 1e-6);
  return clip > 0 && factor < 1 ? factor : 1;
}

}  // namespace dino
