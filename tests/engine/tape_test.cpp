#include "engine/tape.h"

#include "tests/support/catch.h"

#include <vector>

using namespace dino;

namespace {

/// y = factor·x on vectors of one element type, the simplest operation that there is.
Tensor scale(Tape& tape, const Tensor& x, float factor) {
  Tensor y = tape.output(x.shape(), x.dtype(), {&x});
  for (std::int64_t i = 0; i < x.size(); ++i) y.as<float>()[i] = factor * x.as<float>()[i];
  tape.record("scale", y, [x, factor](Tape& tape, const Tensor& dy) {
    const GradientTarget dx = tape.gradient_target(x);
    if (dx.mode == GradientMode::ignore) return;
    for (std::int64_t i = 0; i < dy.size(); ++i) {
      float& to = dx.tensor.as<float>()[i];
      to = factor * dy.as<float>()[i] + (dx.mode == GradientMode::accumulate ? to : 0.0F);
    }
  });
  return y;
}

/// y = a + b; hands dy on without a copy where it can.
Tensor add(Tape& tape, const Tensor& a, const Tensor& b) {
  Tensor y = tape.output(a.shape(), a.dtype(), {&a, &b});
  for (std::int64_t i = 0; i < a.size(); ++i) y.as<float>()[i] = a.as<float>()[i] + b.as<float>()[i];
  tape.record("add", y, [a, b](Tape& tape, const Tensor& dy) {
    for (const Tensor* x : {&a, &b}) {
      if (tape.give_gradient(*x, dy)) continue;
      const GradientTarget dx = tape.gradient_target(*x);
      for (std::int64_t i = 0; i < dy.size(); ++i) {
        float& to = dx.tensor.as<float>()[i];
        to = dy.as<float>()[i] + (dx.mode == GradientMode::accumulate ? to : 0.0F);
      }
    }
  });
  return y;
}

/// y = x in reverse order: its backward pass must not write over what it reads.
Tensor reverse(Tape& tape, const Tensor& x) {
  const std::int64_t n = x.size();
  Tensor y = tape.output(x.shape(), x.dtype(), {&x});
  for (std::int64_t i = 0; i < n; ++i) y.as<float>()[i] = x.as<float>()[n - 1 - i];
  tape.record("reverse", y, [x, n](Tape& tape, const Tensor& dy) {
    const GradientTarget dx = tape.gradient_target(x);
    for (std::int64_t i = 0; i < n; ++i) {
      float& to = dx.tensor.as<float>()[i];
      to = dy.as<float>()[n - 1 - i] + (dx.mode == GradientMode::accumulate ? to : 0.0F);
    }
  });
  return y;
}

std::vector<float> values(const Tensor& x) { return {x.as<float>(), x.as<float>() + x.size()}; }

Tensor vector_of(Context& context, const std::vector<float>& values) {
  return context.from_host(ConstArray(values.data(), Shape{static_cast<std::int64_t>(values.size())}));
}

using Floats = std::vector<float>;

}  // namespace

TEST_CASE("a chain of operations is played back in reverse") {
  const auto context = make_cpu_context();
  Tape tape(*context);
  const Tensor x = tape.variable(vector_of(*context, {1, 2}));
  const Tensor y = scale(tape, scale(tape, x, 3), 5);
  CHECK(values(y) == Floats{15, 30});
  tape.backward(y, vector_of(*context, {1, 10}));
  CHECK(values(tape.gradient(x)) == Floats{15, 150});
}

TEST_CASE("the first use of a variable overwrites, later ones add") {
  const auto context = make_cpu_context();
  Tape tape(*context);
  const Tensor x = tape.variable(vector_of(*context, {1, 1}));
  const Tensor y = add(tape, add(tape, scale(tape, x, 2), scale(tape, x, 3)), scale(tape, x, 4));
  tape.backward(y, vector_of(*context, {1, 2}));
  CHECK(values(tape.gradient(x)) == Floats{9, 18});
}

TEST_CASE("a gradient that was handed on is not written while another still reads it") {
  const auto context = make_cpu_context();
  Tape tape(*context);
  const Tensor leaf = tape.variable(vector_of(*context, {1, 2, 3}));
  const Tensor x = scale(tape, leaf, 1);
  // Both x and the reversed x receive dy itself; then the reversed one's gradient is added to that of x.
  const Tensor y = add(tape, x, reverse(tape, x));
  const Tensor dy = vector_of(*context, {1, 10, 100});
  tape.backward(y, dy);
  CHECK(values(tape.gradient(leaf)) == Floats{101, 20, 101});
  CHECK(values(dy) == Floats{1, 10, 100});
}

TEST_CASE("gradients with a fixed place are written there or added to what is there") {
  const auto context = make_cpu_context();
  for (const GradientMode mode : {GradientMode::overwrite, GradientMode::accumulate}) {
    Tape tape(*context);
    const Tensor gradient = vector_of(*context, {1000, 1000});
    const Tensor x = tape.variable(vector_of(*context, {1, 1}), gradient, mode);
    CHECK_FALSE(tape.give_gradient(x, vector_of(*context, {0, 0})));
    const Tensor y = add(tape, scale(tape, x, 2), x);
    tape.backward(y, vector_of(*context, {1, 2}));
    const float before = mode == GradientMode::accumulate ? 1000 : 0;
    CHECK(values(gradient) == Floats{before + 3, before + 6});
    CHECK(tape.gradient(x).data() == gradient.data());
  }
}

TEST_CASE("what no gradient reaches is passed over") {
  const auto context = make_cpu_context();
  Tape tape(*context);
  const Tensor x = tape.variable(vector_of(*context, {1}));
  const Tensor z = tape.variable(vector_of(*context, {1}));
  int calls = 0;
  const Tensor dead = tape.output({1}, DType::float32, {&z});
  tape.record("dead", dead, [&](Tape&, const Tensor&) { ++calls; });
  const Tensor y = scale(tape, x, 2);
  tape.backward(y, vector_of(*context, {1}));
  CHECK(calls == 0);
  CHECK_FALSE(static_cast<bool>(tape.gradient(z)));
  CHECK(values(tape.gradient(x)) == Floats{2});
}

TEST_CASE("plain values and inference record nothing and keep nothing") {
  const auto context = make_cpu_context();
  {
    Tape tape(*context);
    const Tensor x = vector_of(*context, {1});
    const Tensor y = scale(tape, x, 2);
    CHECK_FALSE(y.requires_gradient());
    CHECK(tape.gradient_target(x).mode == GradientMode::ignore);
    CHECK(tape.give_gradient(x, vector_of(*context, {1})));
    CHECK_THROWS_AS(tape.backward(y, vector_of(*context, {1})), Error);
  }
  Tape inference(*context, Tape::Mode::inference);
  const Tensor x = inference.variable(vector_of(*context, {1}));
  CHECK_FALSE(x.requires_gradient());
  const std::size_t used = context->arena().used_bytes();
  {
    const Tensor y = scale(inference, scale(inference, x, 2), 3);
    CHECK(values(y) == Floats{6});
    CHECK(context->arena().used_bytes() == used + 64);
  }
  CHECK(context->arena().used_bytes() == used);
}

TEST_CASE("detach stops the gradient, reshape does not") {
  const auto context = make_cpu_context();
  Tape tape(*context);
  const Tensor x = tape.variable(vector_of(*context, {1, 2, 3, 4}));
  const Tensor square = x.reshape({2, 2});
  const Tensor y = add(tape, scale(tape, square, 2), scale(tape, square.detach(), 7));
  tape.backward(y, vector_of(*context, {1, 1, 1, 1}).reshape({2, 2}));
  CHECK(values(tape.gradient(x)) == Floats{2, 2, 2, 2});
  CHECK_FALSE(x.rows(0, 2).requires_gradient());
}

TEST_CASE("wrong shapes, types and repeated backward passes are errors") {
  const auto context = make_cpu_context();
  Tape tape(*context);
  const Tensor x = tape.variable(vector_of(*context, {1, 2}));
  CHECK_THROWS_AS(tape.variable(vector_of(*context, {1}), vector_of(*context, {1, 2}), GradientMode::overwrite), Error);
  const Tensor y = scale(tape, x, 2);
  CHECK_THROWS_AS(tape.backward(y, vector_of(*context, {1, 2, 3})), Error);
  CHECK_THROWS_AS(tape.backward(y, context->zeros({2}, DType::bfloat16)), Error);
  CHECK_THROWS_AS(tape.take_gradient(x), Error);
}

TEST_CASE("the second step takes the same memory as the first") {
  const auto context = make_cpu_context();
  std::vector<std::byte*> first;
  std::size_t peak = 0;
  const Tensor start = vector_of(*context, std::vector<float>(1000, 1.0F));
  const Tensor dy = vector_of(*context, std::vector<float>(1000, 1.0F));
  for (int step = 0; step < 3; ++step) {
    std::vector<std::byte*> addresses;
    {
      Tape tape(*context);
      Tensor x = tape.variable(start);
      const Tensor leaf = x;
      for (int i = 0; i < 10; ++i) {
        x = add(tape, x, scale(tape, x, 0.5F));
        addresses.push_back(x.data());
      }
      tape.backward(x, dy);
      addresses.push_back(tape.gradient(leaf).data());
    }
    if (step == 0) {
      first = addresses;
      peak = context->arena().peak_bytes();
    }
    CHECK(addresses == first);
    CHECK(context->arena().peak_bytes() == peak);
  }
}

TEST_CASE("a gradient is told to be whole when nothing can be added to it any more") {
  const auto context = make_cpu_context();
  Tape tape(*context);
  const Tensor memory = context->zeros({3, 2}, DType::float32);
  const auto leaf = [&](std::int64_t i, float value) {
    return tape.variable(vector_of(*context, {value, value}), memory.rows(i, i + 1).reshape({2}),
                         GradientMode::overwrite);
  };
  const Tensor first = leaf(0, 1), twice = leaf(1, 2), unused = leaf(2, 3);
  std::vector<std::pair<const void*, std::vector<float>>> told;
  tape.when_whole([&](const Tensor& gradient) { told.emplace_back(gradient.data(), values(gradient)); });
  const Tensor a = add(tape, scale(tape, first, 2), twice);
  const Tensor y = add(tape, scale(tape, a, 3), scale(tape, twice, 5));
  tape.backward(y, vector_of(*context, {1, 10}));
  // d(first) = 6, d(twice) = 3 + 5. `a` came before, so that twice is whole after the record of a, then first.
  REQUIRE(told.size() == 2);
  CHECK(told[0].first == memory.rows(1, 2).data());
  CHECK(told[0].second == std::vector<float>{8, 80});
  CHECK(told[1].first == memory.rows(0, 1).data());
  CHECK(told[1].second == std::vector<float>{6, 60});
  CHECK(!tape.gradient(unused));
}

TEST_CASE("an operation that does not name an input cannot change a gradient behind one's back") {
  const auto context = make_cpu_context();
  Tape tape(*context);
  const Tensor memory = context->zeros({2}, DType::float32);
  const Tensor x = tape.variable(vector_of(*context, {1, 2}), memory, GradientMode::overwrite);
  tape.when_whole([](const Tensor&) {});
  const Tensor other = tape.variable(vector_of(*context, {1, 2}));
  Tensor sly = tape.output({2}, DType::float32, {&other});  // reads x as well, and does not say so
  tape.record("sly", sly, [x](Tape& tape, const Tensor&) { tape.gradient_target(x); });
  const Tensor y = add(tape, sly, scale(tape, x, 2));
  CHECK_THROWS_AS(tape.backward(y, vector_of(*context, {1, 1})), Error);
}
