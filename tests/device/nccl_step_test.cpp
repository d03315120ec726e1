// NCCL within the recorded step of one rank: its sums are the gradients themselves.
#include "engine/communicators/connect.h"
#include "engine/context_cuda.h"
#include "tests/support/catch.h"
#include "tests/support/same_steps.h"
#include "tests/support/tiny_training.h"

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
  for (const DType type : {DType::float32, DType::bfloat16}) {
    StudentTeacher alone(*context, single, config, type), summed(*context, *nccl, config, type);
    // Enough of them that the step is recorded and replayed.
    test::check_same_steps(*context, config, summed, alone, 6);
  }
}

}  // namespace
}  // namespace dino
