#pragma once

#include "tests/support/catch.h"
#include "tests/support/every_context.h"
#include "train/memory_plan.h"
#include "train/student_teacher.h"

namespace dino::test {

/// Trains two networks of one start for some steps on the same noise, whose every number must be the same to the last
/// bit.
inline void check_same_steps(Context& context, const TrainConfig& config, StudentTeacher& got, StudentTeacher& expected,
                             std::uint64_t steps) {
  const TrainingCrops crops = noise_crops(context, config);
  for (std::uint64_t step = 0; step < steps; ++step) {
    const StepValues values{.lr = 1e-3,
                            .weight_decay = 0.04,
                            .teacher_momentum = 0.9,
                            .teacher_temp = 0.04,
                            .freeze_last_layer = false,
                            .step = step};
    const auto loss_of = [&](StudentTeacher& networks) {
      for (int i = 0; i < config.accumulation; ++i) networks.run_micro_batch(crops, values);
      networks.update(values);
      return networks.wait().loss;
    };
    const double loss = loss_of(expected);
    INFO("step " << step);
    CHECK(loss > 0);
    CHECK(loss_of(got) == loss);
  }
  check_close(to_host(context, got.store().student), to_host(context, expected.store().student), 0.0, "student");
  check_close(to_host(context, got.store().teacher), to_host(context, expected.store().teacher), 0.0, "teacher");
}

}  // namespace dino::test
