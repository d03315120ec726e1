#include "kernels/optimizer_step/optimizer_step.h"
#include "selftest/kernels/kernel_check.h"

#include <limits>

namespace dino {
namespace {

/// Tensors of several sizes with gaps between them, decayed and not, active and not.
std::vector<OptimizerSegment> optimizer_segments() {
  std::vector<OptimizerSegment> segments;
  std::int64_t offset = 0;
  int i = 0;
  for (const std::int64_t size : {1, 7, 1000, 16385, 384}) {
    segments.push_back({.offset = offset,
                        .size = size,
                        .step = 3,
                        .learning_rate = 0.01 * (1 + i),
                        .weight_decay = 0.04,
                        .teacher_momentum = 0.9,
                        .decayed = i % 2 == 0,
                        .adapted = i % 4 < 2,
                        .active = i != 2});
    offset += (size + 15) / 16 * 16;
    ++i;
  }
  return segments;
}
constexpr std::int64_t kFlatSize = 16 + 16 + 1008 + 16400 + 384;

void gradient_norms_check(KernelBench& b) {
  const auto segments = b.table(optimizer_segments());
  const auto count = static_cast<std::int64_t>(segments.host.size());
  const Value gradient = b.normal(kFloat, {kFlatSize}, 0.3), student = b.normal(kFloat, {kFlatSize}, 0.5),
              norms = b.result(kFloat, {count}), parameters = b.result(kFloat, {count}),
              updates = b.result(kFloat, {count});
  const Value flag = b.integers({1}, {0});
  b.run(
      [&](At at) {
        return GradientNorms{.segments = at(segments),
                             .gradient = at(gradient),
                             .norms = at(norms),
                             .non_finite = at(flag),
                             .student = at(student),
                             .parameter_norms = at(parameters),
                             .update_norms = at(updates),
                             .clip = 0.3};
      },
      gradient_norms, reference::gradient_norms,
      {{"norms", norms, 1e-6},
       {"parameter_norms", parameters, 1e-6},
       {"update_norms", updates, 1e-6},
       {"non_finite", flag, 0}});

  // What guards a run: a gradient or a loss that is not finite raises the flag.
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const Value infinite = b.normal(kFloat, {kFlatSize}, kInfinity), losses = b.normal(kFloat, {3}, kInfinity);
  const Value by_gradient = b.integers({1}, {0}), by_losses = b.integers({1}, {0});
  b.run(
      [&](At at) {
        return GradientNorms{
            .segments = at(segments), .gradient = at(infinite), .norms = at(norms), .non_finite = at(by_gradient)};
      },
      gradient_norms, reference::gradient_norms, {{"non_finite of an infinite gradient", by_gradient, 0}});
  b.run(
      [&](At at) {
        return GradientNorms{.segments = at(segments),
                             .gradient = at(gradient),
                             .norms = at(norms),
                             .non_finite = at(by_losses),
                             .losses = at(losses)};
      },
      gradient_norms, reference::gradient_norms, {{"non_finite of infinite losses", by_losses, 0}});
}

/// With the flag raised nothing is written but the number of skipped steps.
void check_skipped_step(KernelBench& b) {
  const auto segments = b.table(optimizer_segments());
  const auto count = static_cast<std::int64_t>(segments.host.size());
  const Shape flat{kFlatSize};
  const Value gradient = b.normal(kFloat, flat, 0.3), norms = b.normal(kFloat, {count}, 0.1, 5),
              flag = b.integers({1}, {1}), skipped = b.integers({count}, {0, 1, 2, 1, 0});
  const Value student = b.updated(kFloat, flat), first = b.updated(kFloat, flat), second = b.updated(kFloat, flat),
              teacher = b.updated(kFloat, flat);
  b.run(
      [&](At at) {
        return OptimizerStep{.segments = at(segments),
                             .kind = OptimizerKind::adamw,
                             .clip = 0.3,
                             .gradient = at(gradient),
                             .norms = at(norms),
                             .non_finite = at(flag),
                             .skipped = at(skipped),
                             .student = at(student),
                             .first_moment = at(first),
                             .second_moment = at(second),
                             .teacher = at(teacher)};
      },
      optimizer_step, reference::optimizer_step,
      {{"skipped", skipped, 0},
       {"student of a skipped step", student, 0},
       {"first_moment of a skipped step", first, 0},
       {"second_moment of a skipped step", second, 0},
       {"teacher of a skipped step", teacher, 0}});
}

void optimizer_step_check(KernelBench& b) {
  for (const OptimizerKind kind : {OptimizerKind::adamw, OptimizerKind::sgd, OptimizerKind::lars}) {
    const auto segments = b.table(optimizer_segments());
    const auto count = static_cast<std::int64_t>(segments.host.size());
    const Shape flat{kFlatSize}, each{count};
    const Value gradient = b.normal(kFloat, flat, 0.3), norms = b.normal(kFloat, each, 0.1, 5),
                parameters = b.normal(kFloat, each, 0.1, 5), updates = b.normal(kFloat, each, 0.1, 5);
    const Value student = b.updated(kFloat, flat, 0.5), first = b.updated(kFloat, flat, 0.1),
                second = b.updated(kFloat, flat, 0.01, 0.1), teacher = b.updated(kFloat, flat, 0.5);
    const Value student_working = b.updated(DType::bfloat16, flat), teacher_working = b.updated(DType::bfloat16, flat);
    const Value skipped = b.integers(each, {0, 1, 0, 1, 2});  // of the three steps, for the moments' correction
    b.run(
        [&](At at) {
          return OptimizerStep{.segments = at(segments),
                               .kind = kind,
                               .clip = 0.3,
                               .gradient = at(gradient),
                               .norms = at(norms),
                               .parameter_norms = at(parameters),
                               .update_norms = at(updates),
                               .skipped = at(skipped),
                               .student = at(student),
                               .first_moment = at(first),
                               .second_moment = kind == OptimizerKind::adamw ? at(second) : Array(),
                               .student_working = at(student_working),
                               .teacher = at(teacher),
                               .teacher_working = at(teacher_working)};
        },
        optimizer_step, reference::optimizer_step,
        {{"student", student, 3e-7},
         {"first_moment", first, 3e-7},
         {"second_moment", second, 3e-7},
         {"teacher", teacher, 3e-7},
         {"student_working", student_working, kBf16},
         {"teacher_working", teacher_working, kBf16}});
  }
  check_skipped_step(b);
}

}  // namespace

KernelChecks optimizer_step_checks() {
  static constexpr KernelCheck kChecks[] = {
      {"gradient_norms", false, gradient_norms_check},
      {"optimizer_step", false, optimizer_step_check},
  };
  return kChecks;
}

}  // namespace dino
