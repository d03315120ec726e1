#include "engine/ops/gather_rows.h"
#include "engine/ops/patch_embed.h"
#include "engine/ops/pos_embed.h"
#include "tests/support/catch.h"
#include "tests/support/op_gradient.h"

using namespace dino;
using namespace dino::test;

namespace {

constexpr std::int64_t kWidth = 12;
constexpr std::int64_t kGlobals = 3;  // sequences of 4 × 4 patches
constexpr std::int64_t kLocals = 5;   // sequences of 2 × 3 patches
constexpr std::int64_t kTokens = kGlobals * 17 + kLocals * 7;

Tensor normal(Context& context, const Shape& shape, std::uint64_t seed) {
  return context.from_host(random_normal(DType::float32, shape, seed).array());
}

// What a model does between the patch embedding and its blocks, and at its end: the position embedding serves both
// groups.
Tensor tokens_of(Tape& tape, const Tensor& embedded, const Tensor& cls, const Tensor& positions) {
  const Tensor native = resize_pos_embed(tape, positions, 4, 4);
  const Tensor local = resize_pos_embed(tape, positions, 2, 3);
  return assemble_tokens(tape, embedded, cls, {{kGlobals, native}, {kLocals, local}});
}

}  // namespace

TEST_CASE("the gradients of assembled tokens agree with central differences") {
  const auto context = make_cpu_context();
  const Tensor embedded = normal(*context, {kTokens - kGlobals - kLocals, kWidth}, 1);
  const Tensor cls = normal(*context, {1, 1, kWidth}, 2);
  const Tensor positions = normal(*context, {1, 17, kWidth}, 3);
  const Tensor dy = normal(*context, {kTokens, kWidth}, 4);

  Tape tape(*context);
  const Tensor e = tape.variable(embedded);
  const Tensor c = tape.variable(cls);
  const Tensor p = tape.variable(positions);
  tape.backward(tokens_of(tape, e, c, p), dy);
  const auto forward = [&] {
    Tape inference(*context, Tape::Mode::inference);
    return tokens_of(inference, embedded, cls, positions);
  };
  check_op_gradient(forward, dy, embedded, tape.gradient(e), 1.0, 1e-5, "d_embedded");
  check_op_gradient(forward, dy, cls, tape.gradient(c), 1.0, 1e-5, "d_cls");
  check_op_gradient(forward, dy, positions, tape.gradient(p), 1.0, 1e-5, "d_positions", 60);
}

TEST_CASE("assembled tokens add to the gradients of earlier micro-batches") {
  const auto context = make_cpu_context();
  const Tensor embedded = normal(*context, {kTokens - kGlobals - kLocals, kWidth}, 1);
  const Tensor cls = normal(*context, {kWidth}, 2);
  const Tensor positions = normal(*context, {17, kWidth}, 3);
  const Tensor dy = normal(*context, {kTokens, kWidth}, 4);
  const Tensor d_cls = context->empty(cls.shape(), DType::float32);
  const Tensor d_positions = context->empty(positions.shape(), DType::float32);
  HostArray once(DType::float32, positions.shape());
  HostArray twice(DType::float32, positions.shape());
  HostArray cls_once(DType::float32, cls.shape());
  for (const GradientMode mode : {GradientMode::overwrite, GradientMode::accumulate}) {
    Tape tape(*context);
    const Tensor c = tape.variable(cls, d_cls, mode);
    const Tensor p = tape.variable(positions, d_positions, mode);
    tape.backward(tokens_of(tape, embedded, c, p), dy);
    if (mode == GradientMode::overwrite) {
      context->copy_to_host(d_positions, once);
      context->copy_to_host(d_cls, cls_once);
    }
  }
  for (std::int64_t i = 0; i < once.size(); ++i) twice.set(i, 2 * once.at(i));
  check_close(d_positions.const_array(), twice, 1e-6, "d_positions");
  for (std::int64_t i = 0; i < cls_once.size(); ++i) cls_once.set(i, 2 * cls_once.at(i));
  check_close(d_cls.const_array(), cls_once, 1e-6, "d_cls");
}

TEST_CASE("the position embedding's own grid is not resized") {
  const auto context = make_cpu_context();
  Tape tape(*context);
  const Tensor positions = tape.variable(normal(*context, {1, 17, kWidth}, 3));
  const Tensor same = resize_pos_embed(tape, positions, 4, 4);
  CHECK(same.data() == positions.data());
  CHECK(same.variable() == positions.variable());
  CHECK(same.shape() == Shape{17, kWidth});
  // As many patches in another shape are.
  const Tensor wide = resize_pos_embed(tape, positions, 2, 8);
  CHECK(wide.data() != positions.data());
}

TEST_CASE("the gradient of gathered rows agrees with central differences") {
  const auto context = make_cpu_context();
  const Tensor x = normal(*context, {20, kWidth}, 1);
  const Tensor dy = normal(*context, {3, kWidth}, 2);
  const Tensor rows = context->from_host(from_integers({19, 0, 7}).array());
  const auto both = [&](Tape& tape, const Tensor& variable) { return gather_rows(tape, variable, rows); };
  Tape tape(*context);
  const Tensor v = tape.variable(x);
  tape.backward(both(tape, v), dy);
  const auto forward = [&] {
    Tape inference(*context, Tape::Mode::inference);
    return both(inference, x);
  };
  check_op_gradient(forward, dy, x, tape.gradient(v), 1.0, 1e-5, "dx", 100);
}

TEST_CASE("crops of two sizes are cut into one matrix of patches") {
  const auto context = make_cpu_context();
  Tape tape(*context, Tape::Mode::inference);
  const Tensor large = normal(*context, {2, 3, 8, 8}, 1);
  const Tensor small = normal(*context, {3, 3, 4, 8}, 2);
  const Tensor all = context->empty({2 * 4 + 3 * 2, 48}, DType::float32);
  const Tensor first = context->empty({8, 48}, DType::float32);
  const Tensor second = context->empty({6, 48}, DType::float32);
  patchify(tape, large, 4, {}, all, 0);
  patchify(tape, small, 4, {}, all, 8);
  patchify(tape, large, 4, {}, first, 0);
  patchify(tape, small, 4, {}, second, 0);
  check_close(all.rows(0, 8).const_array(), first.const_array(), 0.0, "large");
  check_close(all.rows(8, 14).const_array(), second.const_array(), 0.0, "small");
  CHECK_THROWS_AS(patchify(tape, small, 4, {}, all, 9), Error);
}
