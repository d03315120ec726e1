#include "kernels/dino_loss/dino_loss.h"
#include "selftest/kernels/kernel_check.h"

namespace dino {
namespace {

void dino_loss_check(KernelBench& b) {
  for (const std::int64_t columns : {33, 1024}) {
    const int images = 2;
    const Shape students{4 * images, columns};
    // The oracle's gradient has its logits' type.
    const Value student = b.widened(b.normal(students, 0.3)), teacher = b.normal({2 * images, columns}, 0.3),
                center = b.normal(kFloat, {columns}, 0.1);
    const Value gradient = b.result(students), loss = b.result(kFloat, {1}), entropy = b.result(kFloat, {1}),
                kl = b.result(kFloat, {1}), sum = b.result(kFloat, {columns});
    b.run(
        [&](At at) {
          return DinoLossWithGradient{.student = at(student),
                                      .teacher = at(teacher),
                                      .center = at(center),
                                      .images = images,
                                      .student_gradient = at(gradient),
                                      .loss = at(loss),
                                      .teacher_entropy = at(entropy),
                                      .kl = at(kl),
                                      .teacher_sum = at(sum)};
        },
        dino_loss_with_gradient, reference::dino_loss_with_gradient,
        // The divergence is a difference, several times smaller than what it is one of.
        {{"loss", loss, 2e-6},
         {"teacher_entropy", entropy, 2e-5},
         {"kl", kl, 2e-5},
         {"teacher_sum", sum, 2e-6},
         {"student_gradient", gradient, b.bound(1e-5, kBf16)}});
  }
}

void center_update_check(KernelBench& b) {
  const Value sum = b.normal(kFloat, {1023}, 8), center = b.updated(kFloat, {1023});
  b.run([&](At at) { return CenterUpdate{.sum = at(sum), .rows = 8, .momentum = 0.9, .center = at(center)}; },
        center_update, reference::center_update, {{"center", center, 3e-7}});
}

}  // namespace

KernelChecks dino_loss_checks() {
  static constexpr KernelCheck kChecks[] = {
      {"center_update", false, center_update_check},
      {"dino_loss_with_gradient", true, dino_loss_check},
  };
  return kChecks;
}

}  // namespace dino
