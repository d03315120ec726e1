// Sums of gradients in buckets: where they are cut, when they are made, and that they are those of the whole array.
#include "engine/gradient_sums.h"

#include "engine/communicators/threads.h"
#include "models/dino_head.h"
#include "models/vit.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/host_array.h"
#include "train/student_teacher.h"

#include <numeric>
#include <thread>

namespace dino {
namespace {

ParameterLayout some_layout() {
  ParameterLayout layout;
  layout.add("a", {40}, {});
  layout.add("b", {3, 5}, {});
  layout.add("frozen", {7}, {}, false, /*trainable=*/false);
  layout.add("c", {100}, {});
  layout.add("d", {1}, {});
  return layout;
}

TEST_CASE("buckets cover the gradients without gaps, from the end, cut between parameters") {
  const ParameterLayout layout = some_layout();
  std::int64_t trainable = 0;
  for (const ParameterInfo& info : layout.infos()) trainable += info.trainable ? info.size() : 0;
  for (const std::int64_t bytes : {1, 64, 100, 300, 1000, 1 << 20}) {
    INFO(bytes << " bytes");
    const auto buckets = plan_buckets(layout, bytes);
    std::int64_t end = layout.flat_size(), sum = 0;
    for (std::size_t b = 0; b < buckets.size(); ++b) {
      CHECK(buckets[b].end == end);
      CHECK(buckets[b].begin < buckets[b].end);
      const bool cut_between =
          buckets[b].begin == 0 || std::any_of(layout.infos().begin(), layout.infos().end(),
                                               [&](const auto& info) { return info.offset == buckets[b].begin; });
      CHECK(cut_between);
      if (b + 1 < buckets.size()) CHECK((buckets[b].end - buckets[b].begin) * 4 >= bytes);
      end = buckets[b].begin;
      sum += buckets[b].trainable;
    }
    CHECK(end == 0);
    CHECK(sum == trainable);
    if (bytes == 1) CHECK(buckets.size() == layout.infos().size());
    if (bytes == 1 << 20) CHECK(buckets.size() == 1);
    CHECK(buckets.front().name == fmt::format("gradients 1 of {}", buckets.size()));
  }
  CHECK_THROWS_AS(plan_buckets(layout, 0), Error);
}

/// Remembers what was summed, and the values at that moment; doubles them, as two equal ranks would.
class Doubling final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 2; }
  void all_reduce_sum(const Array& values, Stream&, std::string_view name) override {
    names.emplace_back(name);
    for (std::int64_t i = 0; i < values.size(); ++i) store_double(values, i, 2 * load_double(values, i));
    if (during_backward) ++early;
  }
  void all_gather(const ConstArray&, const Array&, Stream&, std::string_view) override {}
  void broadcast(const Array&, int, Stream&, std::string_view) override {}
  void all_gather_host(std::span<const std::byte>, std::span<std::byte>, std::string_view) override {}
  void broadcast_host(std::span<std::byte>, int, std::string_view) override {}
  void barrier(std::string_view) override {}

  std::vector<std::string> names;
  bool during_backward = false;
  int early = 0;
};

/// A network, and the gradients that one backward pass leaves in its store.
struct Pass {
  std::unique_ptr<Context> context = make_cpu_context();
  ParameterLayout layout;
  Vit vit;
  DinoHead head;
  ParameterStore store;

  Pass()
      : vit(layout, network()),
        head(layout, {.in_dim = 24, .out_dim = 40, .hidden_dim = 32, .bottleneck_dim = 16}),
        store(*context, layout, DType::float32, ParameterStore::Role::training) {
    store.initialize(3);
  }
  static VitConfig network() {
    VitConfig config = VitConfig::preset("vit_tiny", 8);
    config.embed_dim = 24;
    config.depth = 3;
    config.heads = 2;
    config.image_px = 16;
    return config;
  }
  void run(Doubling* communicator, GradientSums* sums) {
    SingleProcess alone;
    Tape tape(*context);
    Weights weights = Weights::student(tape, store);
    CropPacker packer(*context, 8);
    const Tensor large = context->from_host(test::random_normal(DType::float32, {4, 3, 16, 16}, 1).array());
    const Tensor small = context->from_host(test::random_normal(DType::float32, {6, 3, 8, 8}, 2).array());
    const Tensor features = vit.cls_features(tape, weights, packer.pack({{large}, {small}}));
    const Tensor y = head(tape, weights, features, alone);
    const Tensor dy = context->from_host(test::random_normal(DType::float32, y.shape(), 4).array());
    if (sums != nullptr) sums->watch(tape);
    if (communicator != nullptr) communicator->during_backward = true;
    tape.backward(y, dy);
    if (communicator != nullptr) communicator->during_backward = false;
    if (sums != nullptr) sums->finish();
  }
  std::vector<float> gradient() const {
    const float* first = store.gradient.as<float>();
    return {first, first + store.gradient.size()};
  }
};

TEST_CASE("buckets are summed while backward runs, each once, in their order, after their last gradient") {
  Pass whole;
  whole.run(nullptr, nullptr);
  const std::vector<float> expected = whole.gradient();
  const double norm = std::inner_product(expected.begin(), expected.end(), expected.begin(), 0.0);
  REQUIRE(norm > 0);
  for (const std::int64_t bytes : {1, 4000, 1 << 30}) {
    INFO(bytes << " bytes");
    Pass pass;
    Doubling communicator;
    GradientSums sums(*pass.context, communicator, pass.layout, pass.store.gradient, {.bucket_bytes = bytes});
    pass.run(&communicator, &sums);
    const auto& buckets = sums.buckets();
    REQUIRE(communicator.names.size() == buckets.size());
    for (std::size_t b = 0; b < buckets.size(); ++b) CHECK(communicator.names[b] == buckets[b].name);
    // All of them: nothing is left for the end, as backward reaches every parameter.
    CHECK(communicator.early == static_cast<int>(buckets.size()));
    // A gradient written after its sum would not be doubled.
    std::vector<float> doubled = expected;
    for (float& value : doubled) value *= 2;
    CHECK(pass.gradient() == doubled);
  }
}

TEST_CASE("gradients rounded to bf16 on the way are right to its precision") {
  Pass whole;
  whole.run(nullptr, nullptr);
  Pass pass;
  Doubling communicator;
  GradientSums sums(*pass.context, communicator, pass.layout, pass.store.gradient,
                    {.type = DType::bfloat16, .bucket_bytes = 4000});
  pass.run(&communicator, &sums);
  const std::vector<float> expected = whole.gradient(), got = pass.gradient();
  std::int64_t wrong = 0, exact = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    wrong += !(std::abs(got[i] - 2 * expected[i]) <= 0x1p-8 * std::abs(2 * expected[i]) + 1e-38);
    exact += got[i] == 2 * expected[i] && expected[i] != 0;
  }
  CHECK(wrong == 0);
  CHECK(exact < static_cast<std::int64_t>(got.size()) / 4);  // or nothing was rounded
}

TEST_CASE("a gradient from elsewhere is refused") {
  Pass pass;
  Doubling communicator;
  GradientSums sums(*pass.context, communicator, pass.layout, pass.store.gradient, {});
  Tape tape(*pass.context);
  const Tensor x = pass.context->zeros({4}, DType::float32), elsewhere = pass.context->zeros({4}, DType::float32);
  const Tensor v = tape.variable(x, elsewhere, GradientMode::overwrite);
  const Tensor y = tape.output({4}, DType::float32, {&v});
  tape.record("nothing", y, [v](Tape& on, const Tensor&) { on.gradient_target(v); });
  sums.watch(tape);
  CHECK_THROWS_AS(tape.backward(y, pass.context->zeros({4}, DType::float32)), Error);
}

}  // namespace
}  // namespace dino
