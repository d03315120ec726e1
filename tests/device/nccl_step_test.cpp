// NCCL within the recorded step of one rank: its sums are the gradients themselves.
#include "engine/communicators/connect.h"
#include "engine/context_cuda.h"
#include "tests/support/catch.h"
#include "tests/support/every_context.h"
#include "tests/support/tiny_training.h"
#include "train/memory_plan.h"
#include "train/student_teacher.h"

namespace dino {
namespace {

TEST_CASE("a step whose gradients NCCL sums over one rank is the step without it", "[device]") {
  TrainConfig config = test::tiny_config();
  config.accumulation = 2;
  config.bucket_mb = 0;  // a sum for each parameter, while backward runs
  const auto context = make_cuda_context(0, 0.5);
  SingleProcess single;
  const auto nccl = connect_one_rank_by_nccl(60, *context);
  CHECK(nccl->recordable());
  const TrainingCrops crops = noise_crops(*context, config);
  for (const DType type : {DType::float32, DType::bfloat16}) {
    StudentTeacher alone(*context, single, config, type), summed(*context, *nccl, config, type);
    // Enough of them that the step is recorded and replayed.
    for (std::uint64_t step = 0; step < 6; ++step) {
      const StepValues values{.lr = 1e-3,
                              .weight_decay = 0.04,
                              .teacher_momentum = 0.9,
                              .teacher_temp = 0.04,
                              .freeze_last_layer = false,
                              .step = step};
      double losses[2];
      for (StudentTeacher* networks : {&alone, &summed}) {
        for (int i = 0; i < config.accumulation; ++i) networks->run_micro_batch(crops, values);
        networks->update(values);
        losses[networks == &summed] = networks->wait().loss;
      }
      INFO("step " << step);
      CHECK(losses[0] > 0);
      CHECK(losses[1] == losses[0]);
    }
    const auto student = test::to_host(*context, alone.store().student);
    check_close(test::to_host(*context, summed.store().student), student, 0.0, "student");
  }
}

}  // namespace
}  // namespace dino
