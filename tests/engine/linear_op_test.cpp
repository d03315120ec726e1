#include "engine/ops/gelu.h"
#include "engine/ops/linear.h"

#include "kernels/gelu/gelu.h"
#include "kernels/matmul/matmul.h"
#include "tests/support/catch.h"
#include "tests/support/host_array.h"

using namespace dino;
using namespace dino::test;

namespace {

HostArray to_host(Context& context, const Tensor& tensor) {
  HostArray result(tensor.dtype(), tensor.shape());
  context.copy_to_host(tensor, result);
  return result;
}

constexpr std::int64_t kRows = 67, kInputs = 21, kOutputs = 34;

/// One linear layer in double, with its gradients by the textbook's formulas.
struct Oracle {
  explicit Oracle(const HostArray& x, const HostArray& weight, const HostArray& bias, const HostArray& dy, bool gelu)
      : x(x.to(DType::float64)),
        weight(weight.to(DType::float64)),
        bias(bias.to(DType::float64)),
        dy(dy.to(DType::float64)),
        gelu(gelu) {
    HostArray z(DType::float64, y.shape());
    reference::matmul({.a = this->x, .b = this->weight, .bias = this->bias, .y = z, .transpose_b = true});
    HostArray dz = this->dy.copy();
    if (gelu) reference::gelu_backward({.x = z, .dy = this->dy, .dx = dz});
    reference::matmul({.a = dz, .b = this->weight, .y = dx});
    reference::matmul({.a = dz, .b = this->x, .y = dweight, .transpose_a = true});
    for (std::int64_t o = 0; o < kOutputs; ++o) {
      double sum = 0;
      for (std::int64_t t = 0; t < kRows; ++t) sum += dz.at(t * kOutputs + o);
      dbias.set(o, sum);
    }
    forward();
  }

  void forward() { reference::matmul({.a = x, .b = weight, .bias = bias, .y = y, .transpose_b = true, .gelu = gelu}); }
  double loss() {
    forward();
    double sum = 0;
    for (std::int64_t i = 0; i < y.size(); ++i) sum += y.at(i) * dy.at(i);
    return sum;
  }

  HostArray x, weight, bias, dy;
  bool gelu;
  HostArray y{DType::float64, {kRows, kOutputs}}, dx{DType::float64, {kRows, kInputs}},
      dweight{DType::float64, {kOutputs, kInputs}}, dbias{DType::float64, {kOutputs}};
};

struct Inputs {
  explicit Inputs(DType dtype)
      : x(random_normal(dtype, {kRows, kInputs}, 1)),
        weight(random_normal(dtype, {kOutputs, kInputs}, 2, 0.3)),
        bias(random_normal(DType::float32, {kOutputs}, 3)),
        dy(random_normal(dtype, {kRows, kOutputs}, 4)) {}
  HostArray x, weight, bias, dy;
};

Tensor apply(Tape& tape, bool gelu, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  return gelu ? linear_gelu(tape, x, weight, bias) : linear(tape, x, weight, bias);
}

}  // namespace

TEST_CASE("the oracle of linear has the gradients that central differences show") {
  for (const bool gelu : {false, true}) {
    const Inputs in(DType::float64);
    Oracle oracle(in.x, in.weight, in.bias, in.dy, gelu);
    const auto loss = [&] { return oracle.loss(); };
    check_gradient(loss, oracle.x, oracle.dx, 1e-7, "dx");
    check_gradient(loss, oracle.weight, oracle.dweight, 1e-7, "dweight");
    check_gradient(loss, oracle.bias, oracle.dbias, 1e-7, "dbias");
  }
}

TEST_CASE("linear and linear_gelu agree with the oracle, forward and backward") {
  const auto context = make_cpu_context();
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (const bool gelu : {false, true}) {
      const Inputs in(dtype);
      const Oracle oracle(in.x, in.weight, in.bias, in.dy, gelu);
      Tape tape(*context);
      // As the parameter store does it: fp32 gradients in fixed places, here of an earlier micro-batch.
      Tensor dweight = context->from_host(random_normal(DType::float32, {kOutputs, kInputs}, 5));
      const HostArray before = to_host(*context, dweight);
      Tensor dbias = context->zeros({kOutputs}, DType::float32);
      const Tensor x = tape.variable(context->from_host(in.x));
      const Tensor weight = tape.variable(context->from_host(in.weight), dweight, GradientMode::accumulate);
      const Tensor bias = tape.variable(context->from_host(in.bias), dbias, GradientMode::overwrite);
      const Tensor y = apply(tape, gelu, x, weight, bias);
      const double tolerance = dtype == DType::float32 ? 1e-6 : 6e-3;
      check_close(to_host(*context, y), oracle.y, tolerance, "y");
      tape.backward(y, context->from_host(in.dy));
      check_close(to_host(*context, tape.gradient(x)), oracle.dx, tolerance, "dx");
      HostArray sum = oracle.dweight.copy();
      for (std::int64_t i = 0; i < sum.size(); ++i) sum.set(i, sum.at(i) + before.at(i));
      check_close(to_host(*context, dweight), sum, tolerance, "dweight onto an earlier one");
      check_close(to_host(*context, dbias), oracle.dbias, tolerance, "dbias");
    }
  }
}

TEST_CASE("linear works without bias, without a variable x, and without a record") {
  const auto context = make_cpu_context();
  const Inputs in(DType::float32);
  const HostArray none = from_values(DType::float32, {kOutputs}, std::vector<double>(kOutputs, 0.0));
  for (const bool gelu : {false, true}) {
    const Oracle oracle(in.x, in.weight, none, in.dy, gelu);
    Tape tape(*context);
    const Tensor x = context->from_host(in.x);
    const Tensor weight = tape.variable(context->from_host(in.weight));
    const Tensor y = apply(tape, gelu, x, weight, {});
    check_close(to_host(*context, y), oracle.y, 1e-6, "y");
    tape.backward(y, context->from_host(in.dy));
    check_close(to_host(*context, tape.gradient(weight)), oracle.dweight, 1e-6, "dweight");
    CHECK_FALSE(static_cast<bool>(tape.gradient(x)));

    Tape inference(*context, Tape::Mode::inference);
    const std::size_t used = context->arena().used_bytes();
    const Tensor z = apply(inference, gelu, x, weight.detach(), {});
    check_close(to_host(*context, z), oracle.y, 1e-6, "y at inference");
    CHECK(context->arena().used_bytes() - used <= z.size_bytes() + Arena::kAlignment);
  }
}

TEST_CASE("linear used twice adds the gradients of both uses") {
  const auto context = make_cpu_context();
  const Inputs in(DType::float32);
  const HostArray none = from_values(DType::float32, {kOutputs}, std::vector<double>(kOutputs, 0.0));
  const Oracle oracle(in.x, in.weight, none, in.dy, false);
  Tape tape(*context);
  const Tensor x = tape.variable(context->from_host(in.x));
  const Tensor weight = tape.variable(context->from_host(in.weight));
  const Tensor dy = context->from_host(in.dy);
  const Tensor first = linear(tape, x, weight);
  const Tensor both = tape.output(first.shape(), first.dtype(), {&first});
  const Tensor second = linear(tape, x, weight);
  tape.record("pass on to both", both, [first, second](Tape& tape, const Tensor& gradient) {
    CHECK(tape.give_gradient(first, gradient));
    CHECK(tape.give_gradient(second, gradient));
  });
  tape.backward(both, dy);
  HostArray twice = oracle.dx.copy();
  for (std::int64_t i = 0; i < twice.size(); ++i) twice.set(i, 2 * twice.at(i));
  check_close(to_host(*context, tape.gradient(x)), twice, 1e-6, "dx");
}

TEST_CASE("gelu as an operation of its own agrees with the oracle") {
  const auto context = make_cpu_context();
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    const HostArray x = random_normal(dtype, {5, 9}, 1);
    const HostArray dy = random_normal(dtype, {5, 9}, 2);
    HostArray y(DType::float64, {5, 9});
    HostArray dx(DType::float64, {5, 9});
    reference::gelu_forward({.x = x, .y = y});
    reference::gelu_backward({.x = x, .dy = dy, .dx = dx});
    Tape tape(*context);
    const Tensor variable = tape.variable(context->from_host(x));
    const Tensor result = gelu(tape, variable);
    tape.backward(result, context->from_host(dy));
    const double tolerance = dtype == DType::float32 ? 1e-6 : 4e-3;
    check_close(to_host(*context, result), y, tolerance, "y");
    check_close(to_host(*context, tape.gradient(variable)), dx, tolerance, "dx");
  }
}
