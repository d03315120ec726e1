#include "engine/parameters.h"

#include "tests/support/catch.h"
#include "tests/support/host_array.h"

#include <cmath>

using namespace dino;
using namespace dino::test;

namespace {

constexpr Initializer kNormal{Initializer::Kind::truncated_normal, 0.02};
constexpr Initializer kOnes{Initializer::Kind::ones};
constexpr Initializer kUniform{Initializer::Kind::uniform, 0.25};

/// A small network whose sizes are no multiples of the windows' alignment.
struct Net {
  ParameterLayout layout;
  ParameterId weight = layout.add("fc.weight", {7, 9}, kNormal, true);
  ParameterId bias = layout.add("fc.bias", {7}, {});
  ParameterId scale = layout.add("norm.weight", {33}, kOnes);
  ParameterId frozen = layout.add("head.weight_g", {5, 1}, kOnes, false, false);
  ParameterId patches = layout.add("patch.weight", {4, 3, 2, 2}, kUniform, true);
};

HostArray to_host(Context& context, const Tensor& tensor) {
  HostArray result(tensor.dtype(), tensor.shape());
  context.copy_to_host(tensor, result);
  return result;
}

}  // namespace

TEST_CASE("a layout places windows one behind the other, aligned, by name") {
  const Net net;
  CHECK(net.layout.parameter_count() == 63 + 7 + 33 + 5 + 48);
  CHECK(net.layout.flat_size() == 64 + 16 + 48 + 16 + 48);
  std::int64_t end = 0;
  for (const ParameterInfo& info : net.layout.infos()) {
    CHECK(info.offset % 16 == 0);
    CHECK(info.offset >= end);
    CHECK(info.offset < end + 16);
    end = info.offset + info.size();
  }
  CHECK(net.layout.find("fc.bias") == net.bias);
  CHECK_FALSE(net.layout.find("fc").has_value());
  CHECK(net.layout.ids().size() == 5);
  ParameterLayout copy = net.layout;
  CHECK_THROWS_AS(copy.add("fc.bias", {1}, {}), Error);
}

TEST_CASE("weight decay leaves out biases and one-dimensional parameters only") {
  ParameterLayout layout;
  const auto decayed = [&](const char* name, const Shape& shape) {
    return layout[layout.add(name, shape, {})].decayed();
  };
  CHECK(decayed("cls_token", {1, 1, 8}));
  CHECK(decayed("pos_embed", {1, 5, 8}));
  CHECK(decayed("last_layer.weight_g", {8, 1}));
  CHECK(decayed("fc.weight", {8, 8}));
  CHECK_FALSE(decayed("fc.bias", {8}));
  CHECK_FALSE(decayed("norm.weight", {8}));
  CHECK_FALSE(decayed("odd.bias", {8, 8}));
}

TEST_CASE("initial values follow the initialisers, the same in teacher and student; the padding is zero") {
  const auto context = make_cpu_context();
  const Net net;
  ParameterStore store(*context, net.layout, DType::bfloat16, ParameterStore::Role::training);
  store.initialize(3);
  const HostArray flat = to_host(*context, store.student);
  check_close(to_host(*context, store.teacher), flat, 0.0, "teacher");
  check_close(to_host(*context, store.student_working), flat.to(DType::bfloat16), 0.0, "working copy");
  check_close(to_host(*context, store.teacher_working), flat.to(DType::bfloat16), 0.0, "teacher's working copy");

  std::vector<bool> used(static_cast<std::size_t>(flat.size()), false);
  for (const ParameterInfo& info : net.layout.infos()) {
    for (std::int64_t i = info.offset; i < info.offset + info.size(); ++i) {
      used[static_cast<std::size_t>(i)] = true;
      switch (info.initializer.kind) {
        case Initializer::Kind::zeros: CHECK(flat.at(i) == 0.0); break;
        case Initializer::Kind::ones: CHECK(flat.at(i) == 1.0); break;
        case Initializer::Kind::uniform: CHECK(std::abs(flat.at(i)) <= 0.25); break;
        case Initializer::Kind::truncated_normal: CHECK(std::abs(flat.at(i)) <= 0.1); break;
      }
    }
  }
  for (std::int64_t i = 0; i < flat.size(); ++i) {
    if (!used[static_cast<std::size_t>(i)]) CHECK(flat.at(i) == 0.0);
  }
}

TEST_CASE("initial draws have the asked spread and depend on seed and name alone") {
  const auto context = make_cpu_context();
  const auto values = [&](const char* before, const char* name, std::uint64_t seed) {
    ParameterLayout layout;
    layout.add(before, {3}, kNormal);
    const ParameterId id = layout.add(name, {100, 200}, kNormal);
    ParameterStore store(*context, layout, DType::float32, ParameterStore::Role::inference);
    store.initialize(seed);
    return to_host(*context, store.window(store.student, id));
  };
  const HostArray first = values("a", "w", 1);
  check_close(values("another", "w", 1), first, 0.0, "the same name and seed");
  CHECK(difference(values("a", "v", 1), first).relative_norm >= 1.0);
  CHECK(difference(values("a", "w", 2), first).relative_norm >= 1.0);
  double mean = 0, square = 0;
  for (std::int64_t i = 0; i < first.size(); ++i) mean += first.at(i) / 20000;
  for (std::int64_t i = 0; i < first.size(); ++i) square += first.at(i) * first.at(i) / 20000;
  CHECK(std::abs(mean) <= 0.0006);
  CHECK(std::abs(std::sqrt(square) - 0.02) <= 0.0005);
}

TEST_CASE("a normal distribution that is wide is cut at two") {
  const auto context = make_cpu_context();
  ParameterLayout layout;
  const ParameterId id = layout.add("w", {5000}, {Initializer::Kind::truncated_normal, 1.0});
  ParameterStore store(*context, layout, DType::float32, ParameterStore::Role::inference);
  store.initialize(1);
  const HostArray values = to_host(*context, store.window(store.student, id));
  double largest = 0;
  for (std::int64_t i = 0; i < values.size(); ++i) largest = std::max(largest, std::abs(values.at(i)));
  CHECK(largest <= 2.0);
  CHECK(largest >= 1.8);
}

TEST_CASE("a store has what its role and type need, and no more") {
  const auto context = make_cpu_context();
  const Net net;
  const ParameterStore inference(*context, net.layout, DType::float32, ParameterStore::Role::inference);
  CHECK(inference.student);
  CHECK_FALSE(inference.student_working);
  CHECK_FALSE(inference.teacher);
  CHECK_FALSE(inference.gradient);
  const ParameterStore training(*context, net.layout, DType::float32, ParameterStore::Role::training);
  CHECK(training.teacher);
  CHECK(training.gradient);
  CHECK(training.second_moment);
  CHECK_FALSE(training.teacher_working);
  CHECK_THROWS_AS(ParameterStore(*context, net.layout, DType::float64, ParameterStore::Role::inference), Error);
}

TEST_CASE("weights come in the compute type for products and in fp32 otherwise, with gradients in their windows") {
  const auto context = make_cpu_context();
  const Net net;
  ParameterStore store(*context, net.layout, DType::bfloat16, ParameterStore::Role::training);
  store.initialize(1);
  Tape tape(*context);
  Weights weights = Weights::student(tape, store, GradientMode::accumulate);
  const Tensor weight = weights(net.weight);
  CHECK(weight.dtype() == DType::bfloat16);
  CHECK(weight.shape() == Shape{7, 9});
  CHECK(weights(net.bias).dtype() == DType::float32);
  CHECK(weights(net.weight).variable() == weight.variable());
  CHECK_FALSE(weights(net.frozen).requires_gradient());
  const GradientTarget target = tape.gradient_target(weight);
  CHECK(target.mode == GradientMode::accumulate);
  CHECK(target.tensor.dtype() == DType::float32);
  CHECK(target.tensor.data() == store.window(store.gradient, net.weight).data());

  Weights teacher = Weights::teacher(tape, store);
  CHECK_FALSE(teacher(net.weight).requires_gradient());
  CHECK(teacher(net.weight).data() == store.window(store.teacher_working, net.weight).data());

  Tape inference(*context, Tape::Mode::inference);
  Weights still = Weights::student(inference, store);
  CHECK_FALSE(still(net.weight).requires_gradient());
}

TEST_CASE("rows of a weight are variables of their own and must not overlap") {
  const auto context = make_cpu_context();
  const Net net;
  ParameterStore store(*context, net.layout, DType::float32, ParameterStore::Role::training);
  store.initialize(1);
  Tape tape(*context);
  Weights weights = Weights::student(tape, store);
  const Tensor first = weights.rows(net.weight, 0, 3);
  const Tensor second = weights.rows(net.weight, 3, 7);
  CHECK(first.variable() != second.variable());
  CHECK(second.data() == store.window(store.student, net.weight).data() + 27 * sizeof(float));
  CHECK(tape.gradient_target(second).tensor.data() ==
        store.window(store.gradient, net.weight).data() + 27 * sizeof(float));
  CHECK(weights.rows(net.weight, 0, 3).variable() == first.variable());
  CHECK_THROWS_AS(weights.rows(net.weight, 2, 4), Error);
  CHECK_THROWS_AS(weights(net.weight), Error);
  CHECK_THROWS_AS(weights.rows(net.bias, 3, 8), Error);
}
