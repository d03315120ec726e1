#include "engine/ops/layer_norm.h"

#include "kernels/layer_norm/layer_norm.h"
#include "tests/support/catch.h"
#include "tests/support/host_array.h"

using namespace dino;
using namespace dino::test;

namespace {

constexpr std::int64_t kRows = 9;
constexpr std::int64_t kWidth = 24;
constexpr double kEps = 1e-6;
constexpr auto kOverwrite = GradientMode::overwrite;

struct Inputs {
  HostArray residual = random_normal(DType::float32, {kRows, kWidth}, 1);
  HostArray branch = random_normal(DType::float32, {kRows, kWidth}, 2);
  HostArray scale = from_values(DType::float32, {2}, {0.0, 1.25});
  HostArray gamma = random_normal(DType::float32, {kWidth}, 3, 1.0, 1.0);
  HostArray beta = random_normal(DType::float32, {kWidth}, 4);
  HostArray d_normalized = random_normal(DType::float32, {kRows, kWidth}, 5);
  HostArray d_sum = random_normal(DType::float32, {kRows, kWidth}, 6);
};

struct Expected {
  HostArray sum{DType::float64, {kRows, kWidth}};
  HostArray normalized{DType::float64, {kRows, kWidth}};
  HostArray mean{DType::float64, {kRows}};
  HostArray rstd{DType::float64, {kRows}};
  HostArray dx{DType::float64, {kRows, kWidth}};
  HostArray d_branch{DType::float64, {kRows, kWidth}};
  HostArray dgamma{DType::float64, {kWidth}};
  HostArray dbeta{DType::float64, {kWidth}};

  Expected(const Inputs& in, const Sequences& sequences, bool from_normalized, bool from_sum) {
    const ConstArray row_sequence = sequences.row_sequence.array();
    reference::layer_norm_forward({.x = in.residual,
                                   .branch = in.branch,
                                   .branch_scale = in.scale,
                                   .row_sequence = row_sequence,
                                   .gamma = in.gamma,
                                   .beta = in.beta,
                                   .eps = kEps,
                                   .sum = sum,
                                   .normalized = normalized,
                                   .mean = mean,
                                   .rstd = rstd});
    reference::layer_norm_backward({.sum = sum,
                                    .mean = mean,
                                    .rstd = rstd,
                                    .gamma = in.gamma,
                                    .d_normalized = from_normalized ? ConstArray(in.d_normalized) : ConstArray(),
                                    .d_sum = from_sum ? ConstArray(in.d_sum) : ConstArray(),
                                    .branch_scale = in.scale,
                                    .row_sequence = row_sequence,
                                    .dx = dx,
                                    .dx_mode = kOverwrite,
                                    .d_branch = d_branch,
                                    .d_branch_mode = kOverwrite,
                                    .dgamma = dgamma,
                                    .dgamma_mode = kOverwrite,
                                    .dbeta = dbeta,
                                    .dbeta_mode = kOverwrite});
  }
};

/// One more operation on the tape, through which a given gradient reaches both outputs: their gradients are set, as by
/// two consumers.
Tensor consume(Tape& tape, const AddLayerNorm& x, const Tensor& d_normalized, const Tensor& d_sum) {
  Tensor y = tape.output({1}, DType::float32, {&x.sum, &x.normalized});
  tape.record("consume", y, [=](Tape& tape, const Tensor&) {
    if (d_normalized) tape.give_gradient(x.normalized, d_normalized);
    if (d_sum) tape.give_gradient(x.sum, d_sum);
  });
  return y;
}

}  // namespace

TEST_CASE("add_layer_norm joins the gradients of both outputs") {
  const Inputs in;
  for (const auto& [from_normalized, from_sum] :
       {std::pair(true, true), std::pair(true, false), std::pair(false, true)}) {
    for (const bool fixed_place : {false, true}) {
      INFO("normalized " << from_normalized << ", sum " << from_sum << ", fixed place " << fixed_place);
      const auto context = make_cpu_context();
      Tape tape(*context);
      const Sequences sequences = make_sequences(*context, {4, 5});
      const Expected expected(in, sequences, from_normalized, from_sum);
      // A leaf either adopts a gradient, or has a place of its own for it.
      const auto variable = [&](const HostArray& value) {
        const Tensor tensor = context->from_host(value);
        return fixed_place ? tape.variable(tensor, context->empty(tensor.shape(), DType::float32), kOverwrite)
                           : tape.variable(tensor);
      };
      const Tensor residual = variable(in.residual);
      const Tensor branch = variable(in.branch);
      const Tensor gamma = variable(in.gamma);
      const Tensor beta = variable(in.beta);
      const AddLayerNorm result =
          add_layer_norm(tape, residual, branch, context->from_host(in.scale), sequences, gamma, beta, kEps);
      check_close(result.sum.array(), expected.sum, 1e-6, "sum");
      check_close(result.normalized.array(), expected.normalized, 2e-6, "normalized");

      const Tensor y = consume(tape, result, from_normalized ? context->from_host(in.d_normalized) : Tensor(),
                               from_sum ? context->from_host(in.d_sum) : Tensor());
      tape.backward(y, context->zeros({1}, DType::float32));
      check_close(tape.gradient(residual).array(), expected.dx, 2e-6, "d_residual");
      check_close(tape.gradient(branch).array(), expected.d_branch, 2e-6, "d_branch");
      if (from_normalized) {
        check_close(tape.gradient(gamma).array(), expected.dgamma, 2e-6, "dgamma");
        check_close(tape.gradient(beta).array(), expected.dbeta, 2e-6, "dbeta");
      } else {
        CHECK(!tape.gradient(gamma));
      }
    }
  }
}

TEST_CASE("add_layer_norm accumulates when a value is both residual and branch") {
  Inputs in;
  const auto context = make_cpu_context();
  Tape tape(*context);
  const Sequences sequences = make_sequences(*context, {4, 5});
  for (std::int64_t i = 0; i < in.branch.size(); ++i) in.branch.set(i, in.residual.at(i));
  const Expected expected(in, sequences, true, true);
  HostArray total(DType::float64, {kRows, kWidth});
  for (std::int64_t i = 0; i < total.size(); ++i) total.set(i, expected.dx.at(i) + expected.d_branch.at(i));

  const Tensor x = tape.variable(context->from_host(in.residual));
  const AddLayerNorm result = add_layer_norm(tape, x, x, context->from_host(in.scale), sequences,
                                             context->from_host(in.gamma), context->from_host(in.beta), kEps);
  const Tensor y = consume(tape, result, context->from_host(in.d_normalized), context->from_host(in.d_sum));
  tape.backward(y, context->zeros({1}, DType::float32));
  check_close(tape.gradient(x).array(), total, 2e-6, "dx");
}

TEST_CASE("layer_norm on a tape has the oracle's value and gradients") {
  const Inputs in;
  const auto context = make_cpu_context();
  Tape tape(*context);
  const Tensor x = tape.variable(context->from_host(in.residual));
  const Tensor gamma = tape.variable(context->from_host(in.gamma));
  const Tensor beta = tape.variable(context->from_host(in.beta));
  const Tensor y = layer_norm(tape, x, gamma, beta, kEps);
  tape.backward(y, context->from_host(in.d_normalized));

  Inputs plain;
  for (std::int64_t i = 0; i < plain.branch.size(); ++i) plain.branch.set(i, 0.0);
  const Expected expected(plain, make_sequences(*context, {4, 5}), true, false);
  check_close(y.array(), expected.normalized, 2e-6, "normalized");
  check_close(tape.gradient(x).array(), expected.dx, 2e-6, "dx");
  check_close(tape.gradient(gamma).array(), expected.dgamma, 2e-6, "dgamma");
  check_close(tape.gradient(beta).array(), expected.dbeta, 2e-6, "dbeta");
}

TEST_CASE("add_layer_norm keeps nothing at inference") {
  const Inputs in;
  const auto context = make_cpu_context();
  Tape tape(*context, Tape::Mode::inference);
  const Sequences sequences = make_sequences(*context, {4, 5});
  const Tensor residual = context->from_host(in.residual);
  const Tensor branch = context->from_host(in.branch);
  const Tensor gamma = context->from_host(in.gamma);
  const Tensor beta = context->from_host(in.beta);
  const std::size_t before = context->arena().used_bytes();
  {
    const AddLayerNorm result = add_layer_norm(tape, residual, branch, {}, sequences, gamma, beta, kEps);
    CHECK(!result.normalized.requires_gradient());
    CHECK(context->arena().used_bytes() <= before + 2 * residual.size_bytes() + 2 * Arena::kAlignment);
  }
  CHECK(context->arena().used_bytes() == before);
}
