#include "engine/communicators/threads.h"
#include "engine/ops/batch_norm.h"
#include "engine/ops/l2_normalize.h"
#include "engine/ops/weight_norm.h"
#include "tests/support/catch.h"
#include "tests/support/op_gradient.h"

#include <thread>

using namespace dino;
using namespace dino::test;

namespace {

constexpr std::int64_t kRows = 10;
constexpr std::int64_t kWidth = 12;

Tensor normal(Context& context, const Shape& shape, std::uint64_t seed, double mean = 0.0) {
  return context.from_host(random_normal(DType::float32, shape, seed, 1.0, mean).array());
}

struct BatchNormRun {
  HostArray y, dx, d_gamma, d_beta, statistics;
};

BatchNormRun run_batch_norm(const ConstArray& x, const ConstArray& dy, const ConstArray& gamma, const ConstArray& beta,
                            Communicator& communicator) {
  const auto context = make_cpu_context();
  Tape tape(*context);
  const Tensor vx = tape.variable(context->from_host(x));
  const Tensor vg = tape.variable(context->from_host(gamma));
  const Tensor vb = tape.variable(context->from_host(beta));
  const Tensor statistics = context->empty({2, x.extent(1)}, DType::float32);
  const Tensor y = batch_norm(tape, vx, vg, vb, 1e-5, communicator, statistics);
  BatchNormRun run{HostArray(DType::float32, x.shape()), HostArray(DType::float32, x.shape()),
                   HostArray(DType::float32, gamma.shape()), HostArray(DType::float32, beta.shape()),
                   HostArray(DType::float32, statistics.shape())};
  context->copy_to_host(y, run.y);
  tape.backward(y, context->from_host(dy));
  context->copy_to_host(tape.gradient(vx), run.dx);
  context->copy_to_host(tape.gradient(vg), run.d_gamma);
  context->copy_to_host(tape.gradient(vb), run.d_beta);
  context->copy_to_host(statistics, run.statistics);
  return run;
}

ConstArray rows_of(const HostArray& array, std::int64_t begin, std::int64_t end) {
  return {array.as<float>() + begin * array.shape()[1], Shape{end - begin, array.shape()[1]}};
}

}  // namespace

TEST_CASE("the gradient of l2_normalize agrees with central differences") {
  const auto context = make_cpu_context();
  const Tensor x = normal(*context, {kRows, kWidth}, 1);
  const Tensor dy = normal(*context, {kRows, kWidth}, 2);
  Tape tape(*context);
  const Tensor v = tape.variable(x);
  tape.backward(l2_normalize(tape, v), dy);
  const auto forward = [&] {
    Tape inference(*context, Tape::Mode::inference);
    return l2_normalize(inference, x);
  };
  check_op_gradient(forward, dy, x, tape.gradient(v), 1e-2, 1e-3, "dx");
}

TEST_CASE("the gradients of weight_norm agree with central differences") {
  const auto context = make_cpu_context();
  const Tensor v = normal(*context, {kRows, kWidth}, 1);
  const Tensor g = normal(*context, {kRows, 1}, 2, 2.0);
  const Tensor dy = normal(*context, {kRows, kWidth}, 3);
  const auto forward = [&] {
    Tape inference(*context, Tape::Mode::inference);
    return weight_norm(inference, v, g, DType::float32);
  };
  Tape tape(*context);
  const Tensor vv = tape.variable(v);
  const Tensor vg = tape.variable(g);
  tape.backward(weight_norm(tape, vv, vg, DType::float32), dy);
  check_op_gradient(forward, dy, v, tape.gradient(vv), 1e-2, 1e-3, "dv");
  check_op_gradient(forward, dy, g, tape.gradient(vg), 1e-2, 1e-3, "dg");

  // A frozen g gets no gradient, and v the same one.
  Tape frozen(*context);
  const Tensor alone = frozen.variable(v);
  frozen.backward(weight_norm(frozen, alone, g, DType::float32), dy);
  check_close(frozen.gradient(alone).const_array(), tape.gradient(vv).const_array(), 0.0, "dv with a frozen g");
  CHECK(!frozen.gradient(g));

  // A bf16 weight comes back to v's fp32 gradient.
  Tape half(*context);
  const Tensor master = half.variable(v);
  const Tensor w = weight_norm(half, master, g, DType::bfloat16);
  REQUIRE(w.dtype() == DType::bfloat16);
  HostArray rounded(DType::float32, dy.shape());
  context->copy_to_host(dy, rounded);
  half.backward(w, context->from_host(rounded.to(DType::bfloat16).array()));
  CHECK(half.gradient(master).dtype() == DType::float32);
  check_close(half.gradient(master).const_array(), tape.gradient(vv).const_array(), 0x1p-8, "dv from bf16");
}

TEST_CASE("the gradients of batch_norm agree with central differences") {
  const auto context = make_cpu_context();
  SingleProcess alone;
  const Tensor x = normal(*context, {kRows, kWidth}, 1);
  const Tensor gamma = normal(*context, {kWidth}, 2, 2.0);
  const Tensor beta = normal(*context, {kWidth}, 3);
  const Tensor dy = normal(*context, {kRows, kWidth}, 4);
  Tape tape(*context);
  const Tensor vx = tape.variable(x);
  const Tensor vg = tape.variable(gamma);
  const Tensor vb = tape.variable(beta);
  tape.backward(batch_norm(tape, vx, vg, vb, 1e-5, alone), dy);
  const auto forward = [&] {
    Tape inference(*context, Tape::Mode::inference);
    return batch_norm(inference, x, gamma, beta, 1e-5, alone);
  };
  check_op_gradient(forward, dy, x, tape.gradient(vx), 1e-2, 1e-3, "dx");
  check_op_gradient(forward, dy, gamma, tape.gradient(vg), 1e-2, 1e-3, "d_gamma");
  check_op_gradient(forward, dy, beta, tape.gradient(vb), 1e-2, 1e-3, "d_beta");
}

TEST_CASE("batch_norm on two ranks is batch_norm of all their rows") {
  const std::int64_t rows = 50;
  const std::int64_t width = 40;
  const HostArray x = random_normal(DType::float32, {rows, width}, 1, 1.0, 3.0);
  const HostArray dy = random_normal(DType::float32, {rows, width}, 2);
  const HostArray gamma = random_normal(DType::float32, {width}, 3, 0.3, 1.0);
  const HostArray beta = random_normal(DType::float32, {width}, 4);
  SingleProcess alone;
  const BatchNormRun whole = run_batch_norm(x, dy, gamma, beta, alone);

  const std::int64_t cut = 18;  // ranks of different sizes
  const std::int64_t bounds[] = {0, cut, rows};
  ThreadGroup group(2);
  std::array<std::unique_ptr<BatchNormRun>, 2> runs;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      ThreadCommunicator communicator(group, rank);
      const ConstArray part = rows_of(x, bounds[rank], bounds[rank + 1]);
      const ConstArray d_part = rows_of(dy, bounds[rank], bounds[rank + 1]);
      runs[static_cast<std::size_t>(rank)] =
          std::make_unique<BatchNormRun>(run_batch_norm(part, d_part, gamma, beta, communicator));
    });
  }
  for (std::thread& thread : threads) thread.join();

  HostArray d_gamma(DType::float32, {width});
  HostArray d_beta(DType::float32, {width});
  for (std::int64_t c = 0; c < width; ++c) {
    d_gamma.set(c, runs[0]->d_gamma.at(c) + runs[1]->d_gamma.at(c));
    d_beta.set(c, runs[0]->d_beta.at(c) + runs[1]->d_beta.at(c));
  }
  for (std::size_t rank = 0; rank < 2; ++rank) {
    check_close(runs[rank]->y, rows_of(whole.y, bounds[rank], bounds[rank + 1]), 1e-5, "y");
    check_close(runs[rank]->dx, rows_of(whole.dx, bounds[rank], bounds[rank + 1]), 1e-5, "dx");
    check_close(runs[rank]->statistics, whole.statistics, 1e-5, "statistics");
  }
  // Each rank has the gradient of its own rows; the trainer adds them up.
  check_close(d_gamma, whole.d_gamma, 1e-5, "d_gamma");
  check_close(d_beta, whole.d_beta, 1e-5, "d_beta");
}
