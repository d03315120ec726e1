// The step as the device sees it: results that come late, recordings, and steps that are skipped because something is
// not finite.
#include "train/student_teacher.h"

#include "engine/communicators/silent.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/every_context.h"
#include "tests/support/tiny_training.h"

#include <barrier>
#include <initializer_list>
#include <limits>
#include <thread>

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
TEST_CASE("A step that is not finite is as if it had never been, also for those on their way behind it", "[device]") {
  every_context(check_spoilt);
}
void check_spoilt(Context& context) {
  const TrainConfig config = step_config();
  SingleProcess communicator;
  for (const DType type : {DType::float32, DType::bfloat16}) {
    StudentTeacher networks(context, communicator, config, type);
    StudentTeacher untroubled(context, communicator, config, type);
    // Steps 1, 3 and 4 are spoilt: one while the last layer is frozen, which is no update of it, and two in a row.
    std::vector<double> expected_losses;
    for (const std::uint64_t step : {0, 2, 5, 6}) {
      put_step(context, untroubled, config, step);
      expected_losses.push_back(untroubled.wait().loss);
    }
    std::vector<StepResult> results;
    const auto take = [&] { results.push_back(networks.wait()); };
    for (const std::uint64_t step : {0, 1, 2, 3}) put_step(context, networks, config, step, step == 1 || step == 3);
    CHECK(networks.pending() == 4);
    for (int i = 0; i < 3; ++i) take();
    put_step(context, networks, config, 4, /*spoilt=*/true);
    put_step(context, networks, config, 5);
    take();
    take();
    // What was recorded is put on the stream while the host does not know of the skips yet, and after it does.
    put_step(context, networks, config, 6);
    take();
    take();
    REQUIRE(results.size() == 7);
    std::vector<double> losses;
    for (const StepResult& result : results) {
      INFO("step " << result.step);
      const bool spoilt = result.step == 1 || result.step == 3 || result.step == 4;
      CHECK(result.not_finite.has_value() == spoilt);
      if (spoilt) CHECK(result.not_finite == "the teacher's logits");
      CHECK(std::isfinite(result.center_norm));
      if (!spoilt) losses.push_back(result.loss);
    }
    CHECK(losses == expected_losses);
    check_same(State(context, networks), State(context, untroubled), "state");
    CHECK_FALSE(networks.poll());
    CHECK_FALSE(networks.weights_not_finite());
    const auto center = to_host(context, networks.center());
    double square = 0;
    for (std::int64_t i = 0; i < center.size(); ++i) square += center.at(i) * center.at(i);
    CHECK(square > 0);
    CHECK(std::abs(results.back().center_norm / std::sqrt(square) - 1) <= 1e-6);
  }
}

/// Puts `value` in the place of a parameter's first element, in the student or in the teacher.
void poison(Context& context, StudentTeacher& networks, const std::string& name, bool teacher, double value) {
  ParameterStore& store = networks.store();
  Tensor window = store.window(teacher ? store.teacher : store.student, *networks.layout().find(name));
  HostArray values = to_host(context, window);
  values.set(0, value);
  context.copy_from_host(values, window);
  store.refresh_working_copies();
}

void check_named(Context& context);
TEST_CASE("What was not finite first is named", "[device]") { every_context(check_named); }
void check_named(Context& context) {
  TrainConfig config = step_config();
  config.drop_path_rate = 0;
  SingleProcess communicator;
  struct Poison {
    const char* parameter;
    bool teacher;
    double value;
    const char* expected;
    const char* weight;  // that is named as not finite
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Poison poisons[] = {{"backbone.blocks.1.attn.qkv.weight", true, nan, "the teacher's logits",
                             "the teacher's backbone.blocks.1.attn.qkv.weight"},
                            {"backbone.blocks.1.attn.qkv.weight", false, nan, "the student's logits",
                             "the student's backbone.blocks.1.attn.qkv.weight"}};
  for (const Poison& p : poisons) {
    INFO(p.parameter << ", teacher " << p.teacher);
    StudentTeacher networks(context, communicator, config, DType::float32);
    poison(context, networks, p.parameter, p.teacher, p.value);
    const State before(context, networks);
    put_step(context, networks, config, 4);
    const StepResult result = networks.wait();
    INFO("got " << result.not_finite.value_or("nothing") << ", loss " << result.loss);
    CHECK(result.not_finite == p.expected);
    CHECK(networks.update_counts() == before.counts);
    CHECK(networks.weights_not_finite() == p.weight);
  }
}

/// Spoils elements of the gradient on its way over the ranks.
class SpoiltGradient final : public SilentRank {
 public:
  void all_reduce_sum(const Array& values, Stream&, std::string_view name) override {
    if (name != "gradients 1 of 1") return;
    for (const std::int64_t at : elements) values.as<float>()[at] = value;
  }

  std::vector<std::int64_t> elements;
  float value = std::numeric_limits<float>::quiet_NaN();
};

TEST_CASE("Of gradients that are not finite, the one nearest to the loss is named") {
  const TrainConfig config = step_config();
  const auto context = make_cpu_context();
  SpoiltGradient communicator;
  StudentTeacher networks(*context, communicator, config, DType::float32);
  const auto spoil = [&](std::initializer_list<const char*> names) {
    communicator.elements.clear();
    for (const char* name : names) {
      const ParameterInfo& info = networks.layout()[*networks.layout().find(name)];
      communicator.elements.push_back(info.offset + info.size() - 1);
    }
  };
  const State before(*context, networks);
  spoil({"backbone.pos_embed"});
  put_step(*context, networks, config, 2);
  CHECK(networks.wait().not_finite == "the gradient of backbone.pos_embed");
  spoil({"backbone.cls_token", "backbone.blocks.1.mlp.fc1.weight", "backbone.blocks.0.norm1.weight"});
  communicator.value = -std::numeric_limits<float>::infinity();
  put_step(*context, networks, config, 3);
  const StepResult result = networks.wait();
  CHECK(result.not_finite == "the gradient of backbone.blocks.1.mlp.fc1.weight");
  CHECK(std::isfinite(result.loss));
  check_same(State(*context, networks), before, "left alone");
  // A layer that is not trained in this step does not matter.
  spoil({"head.last_layer.weight_v"});
  put_step(*context, networks, config, 1);
  CHECK_FALSE(networks.wait().not_finite);
  spoil({});
  put_step(*context, networks, config, 4);
  CHECK_FALSE(networks.wait().not_finite);
  CHECK_FALSE(networks.weights_not_finite());
}

/// Two ranks in two threads.
class Pair {
 public:
  class Rank final : public SilentRank {
   public:
    Rank(Pair& pair, int rank) : SilentRank(2), pair_(pair), rank_(rank) {}
    int rank() const override { return rank_; }
    void all_reduce_sum(const Array& values, Stream&, std::string_view) override {
      float* mine = values.as<float>();
      pair_.values_[static_cast<std::size_t>(rank_)].assign(mine, mine + values.size());
      pair_.all_.arrive_and_wait();
      for (std::size_t i = 0; i < static_cast<std::size_t>(values.size()); ++i)
        mine[i] = pair_.values_[0][i] + pair_.values_[1][i];
      pair_.all_.arrive_and_wait();
    }
    void barrier(std::string_view) override { pair_.all_.arrive_and_wait(); }

   private:
    Pair& pair_;
    int rank_;
  };
  Rank ranks[2] = {{*this, 0}, {*this, 1}};

 private:
  std::barrier<> all_{2};
  std::vector<float> values_[2];
};

TEST_CASE("All ranks skip a step in which one of them was not finite") {
  const TrainConfig config = step_config();
  Pair pair;
  std::vector<StepResult> results[2];
  std::vector<std::int64_t> counts[2];
  std::vector<double> weights[2];
  const auto run = [&](std::size_t rank) {
    const auto context = make_cpu_context();
    StudentTeacher networks(*context, pair.ranks[rank], config, DType::float32);
    for (std::uint64_t step = 0; step < 4; ++step) {
      put_step(*context, networks, config, step, /*spoilt=*/rank == 1 && step == 2);
      results[rank].push_back(networks.wait());
    }
    counts[rank] = networks.update_counts();
    const HostArray student = to_host(*context, networks.store().student);
    for (std::int64_t i = 0; i < student.size(); ++i) weights[rank].push_back(student.at(i));
  };
  std::thread other(run, 1);
  run(0);
  other.join();
  for (const auto& of_rank : results) {
    REQUIRE(of_rank.size() == 4);
    for (std::size_t step = 0; step < 4; ++step) {
      CHECK(of_rank[step].not_finite.has_value() == (step == 2));
      if (step == 2) CHECK(of_rank[step].not_finite == "the teacher's logits");
    }
  }
  CHECK(counts[0] == counts[1]);
  CHECK(counts[0].front() == 3);
  REQUIRE_FALSE(weights[0].empty());
  CHECK(weights[0] == weights[1]);
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
