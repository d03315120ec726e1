// The step as the device sees it: results that come late, recordings, and what is left alone when something is not
// finite.
#include "train/student_teacher.h"

#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/every_context.h"
#include "tests/support/tiny_training.h"

#include <limits>

namespace dino {
namespace {

using test::check_close;
using test::error_of;
using test::every_context;
using test::HostArray;
using test::to_host;

TrainConfig step_config() {
  TrainConfig config = test::tiny_config();
  config.drop_path_rate = 0.3;
  config.accumulation = 2;
  return config;
}

StepValues values_of(std::uint64_t step) {
  return {.lr = 1e-3 * static_cast<double>(1 + step),
          .weight_decay = 0.04 + 0.01 * static_cast<double>(step),
          .teacher_momentum = 0.9 + 0.01 * static_cast<double>(step),
          .teacher_temp = step < 3 ? 0.04 : 0.05,
          .freeze_last_layer = step < 2,
          .step = step};
}

/// Puts a whole step of noise on the stream, in whose last micro-batch one pixel may not be finite.
void put_step(Context& context, StudentTeacher& networks, const TrainConfig& config, std::uint64_t step,
              bool spoilt = false) {
  for (int i = 0; i < config.accumulation; ++i) {
    const std::int64_t images = config.batch_size_per_gpu;
    TrainingCrops crops;
    for (const auto& [views, size_px] :
         {std::pair{2, config.global_crops_size}, std::pair{config.local_crops_number, config.local_crops_size}}) {
      HostArray pixels = test::random_normal(DType::float32, {views * images, 3, size_px, size_px},
                                             100 * step + 10 * static_cast<std::uint64_t>(i) + crops.groups.size());
      if (spoilt && i + 1 == config.accumulation && crops.groups.empty())
        pixels.set(pixels.size() - 1, std::numeric_limits<double>::infinity());
      crops.groups.push_back({context.from_host(pixels)});
    }
    for (std::int64_t b = 0; b < images; ++b) crops.samples.push_back(7 * step + static_cast<std::uint64_t>(b));
    networks.run_micro_batch(crops, values_of(step));
  }
  networks.update(values_of(step));
}

/// All that a step changes.
struct State {
  State(Context& context, StudentTeacher& networks) : counts(networks.update_counts()) {
    const ParameterStore& store = networks.store();
    for (const Tensor& tensor : {store.student, store.teacher, store.first_moment, store.second_moment,
                                 store.student_working, store.teacher_working, networks.center()}) {
      if (tensor) arrays.push_back(to_host(context, tensor));
    }
  }
  std::vector<HostArray> arrays;
  std::vector<std::int64_t> counts;
};

void check_same(const State& got, const State& expected, const char* what) {
  REQUIRE(got.arrays.size() == expected.arrays.size());
  for (std::size_t i = 0; i < got.arrays.size(); ++i) check_close(got.arrays[i], expected.arrays[i], 0.0, what);
  CHECK(got.counts == expected.counts);
}

void check_spoilt(Context& context);
TEST_CASE("A step that is not finite changes nothing, nor do those behind it", "[device]") {
  every_context(check_spoilt);
}
void check_spoilt(Context& context) {
  const TrainConfig config = step_config();
  SingleProcess communicator;
  for (const DType type : {DType::float32, DType::bfloat16}) {
    StudentTeacher networks(context, communicator, config, type);
    StudentTeacher untroubled(context, communicator, config, type);
    for (std::uint64_t step = 0; step < 4; ++step) {
      for (StudentTeacher* each : {&networks, &untroubled}) {
        put_step(context, *each, config, step);
        CHECK(each->wait().step == step);
      }
    }
    const State before(context, networks);
    check_same(before, State(context, untroubled), "the same steps");
    put_step(context, networks, config, 4, /*spoilt=*/true);
    put_step(context, networks, config, 5);
    CHECK(networks.pending() == 2);
    const std::string error = error_of([&] { networks.wait(); });
    INFO(error);
    CHECK(error.starts_with("[train] the loss is not finite at step 4; stopped before the weights changed; try "));
    CHECK(networks.pending() == 0);
    CHECK_FALSE(networks.poll());
    check_same(State(context, networks), before, "left alone");

    // And it can go on.
    for (StudentTeacher* each : {&networks, &untroubled}) {
      put_step(context, *each, config, 4);
      CHECK(std::isfinite(each->wait().loss));
    }
    const State after(context, networks);
    check_same(after, State(context, untroubled), "gone on");
    CHECK(test::difference(after.arrays[0], before.arrays[0]).largest > 0);
  }
}

void check_late(Context& context);
TEST_CASE("Results that are taken late are those that are taken at once", "[device]") { every_context(check_late); }
void check_late(Context& context) {
  const TrainConfig config = step_config();
  SingleProcess communicator;
  StudentTeacher at_once(context, communicator, config, DType::float32);
  StudentTeacher late(context, communicator, config, DType::float32);
  std::vector<StepResult> expected;
  constexpr std::uint64_t kSteps = StudentTeacher::kMaxPending;
  for (std::uint64_t step = 0; step < kSteps; ++step) {
    put_step(context, at_once, config, step);
    if (context.device() == Device::cpu) {
      const auto result = at_once.poll();
      REQUIRE(result);
      expected.push_back(*result);
    } else {
      expected.push_back(at_once.wait());
    }
  }
  for (std::uint64_t step = 0; step < kSteps; ++step) put_step(context, late, config, step);
  CHECK(late.pending() == kSteps);
  CHECK(error_of([&] { put_step(context, late, config, kSteps); }).find("4 steps are without result") !=
        std::string::npos);
  for (std::uint64_t step = 0; step < kSteps; ++step) {
    std::optional<StepResult> result;
    while (!result) result = late.poll();
    CHECK(result->step == step);
    CHECK(result->loss == expected[step].loss);
    CHECK(result->teacher_entropy == expected[step].teacher_entropy);
    CHECK(result->kl == expected[step].kl);
    CHECK(result->gradient_norm == expected[step].gradient_norm);
    CHECK(result->gradient_norm > 0);
  }
  CHECK_THROWS_AS(late.wait(), Error);
  check_same(State(context, late), State(context, at_once), "state");
  // The temperature changes once: the micro-batches are recorded twice, and run as they are before each time.
  const std::int64_t replays = context.device() == Device::cpu ? 0 : 2 * 2 + 3;
  CHECK(at_once.replays() == replays);
}

}  // namespace
}  // namespace dino
