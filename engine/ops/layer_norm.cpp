#include "engine/ops/layer_norm.h"

#include "kernels/layer_norm/layer_norm.h"

namespace dino {
namespace {

/// Rows' statistics, kept when a backward pass will need them.
struct Statistics {
  Tensor mean;
  Tensor rstd;
};
Statistics make_statistics(Tape& tape, const Tensor& normalized) {
  if (!normalized.requires_gradient()) return {};
  const Shape rows{normalized.extent(0)};
  return {tape.context().empty(rows, DType::float32), tape.context().empty(rows, DType::float32)};
}

}  // namespace

Tensor layer_norm(Tape& tape, const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps) {
  Tensor normalized = tape.output(x.shape(), x.dtype(), {&x, &gamma, &beta});
  const Statistics statistics = make_statistics(tape, normalized);
  layer_norm_forward({.x = x.array(),
                      .branch = {},
                      .branch_scale = {},
                      .row_sequence = {},
                      .gamma = gamma.array(),
                      .beta = beta.array(),
                      .eps = eps,
                      .sum = {},
                      .normalized = normalized.array(),
                      .mean = statistics.mean.array(),
                      .rstd = statistics.rstd.array()},
                     tape.stream());
  tape.record("layer_norm", normalized,
              [x, gamma, beta = beta.variable_only(), statistics](Tape& tape, const Tensor& d_normalized) {
                const GradientTarget dx = tape.gradient_target(x);
                const GradientTarget dgamma = tape.gradient_target(gamma);
                const GradientTarget dbeta = tape.gradient_target(beta);
                layer_norm_backward({.sum = x.array(),
                                     .mean = statistics.mean.array(),
                                     .rstd = statistics.rstd.array(),
                                     .gamma = gamma.array(),
                                     .d_normalized = d_normalized.array(),
                                     .d_sum = {},
                                     .branch_scale = {},
                                     .row_sequence = {},
                                     .dx = dx.tensor.array(),
                                     .dx_mode = dx.mode,
                                     .d_branch = {},
                                     .d_branch_mode = GradientMode::ignore,
                                     .dgamma = dgamma.tensor.array(),
                                     .dgamma_mode = dgamma.mode,
                                     .dbeta = dbeta.tensor.array(),
                                     .dbeta_mode = dbeta.mode},
                                    tape.stream());
              });
  return normalized;
}

AddLayerNorm add_layer_norm(Tape& tape, const Tensor& residual, const Tensor& branch, const Tensor& branch_scale,
                            const Sequences& sequences, const Tensor& gamma, const Tensor& beta, double eps) {
  require(!branch_scale || branch_scale.shape() == Shape{sequences.count()}, "add_layer_norm",
          "branch_scale has one factor per sequence; got {} for {} sequences", branch_scale.shape().to_string(),
          sequences.count());
  AddLayerNorm result{
      .sum = tape.output(residual.shape(), residual.dtype(), {&residual, &branch}),
      .normalized = tape.output(residual.shape(), residual.dtype(), {&residual, &branch, &gamma, &beta})};
  const Statistics statistics = make_statistics(tape, result.normalized);
  const Tensor row_sequence = branch_scale ? sequences.row_sequence : Tensor();
  layer_norm_forward({.x = residual.array(),
                      .branch = branch.array(),
                      .branch_scale = branch_scale.array(),
                      .row_sequence = row_sequence.array(),
                      .gamma = gamma.array(),
                      .beta = beta.array(),
                      .eps = eps,
                      .sum = result.sum.array(),
                      .normalized = result.normalized.array(),
                      .mean = statistics.mean.array(),
                      .rstd = statistics.rstd.array()},
                     tape.stream());

  // Both outputs have a record. Play-back starts with the one of `normalized`, which takes the gradient of `sum` along,
  // so that one pass over memory serves both; the record of `sum` is played when no gradient reached `normalized`.
  const auto backward = [residual = residual.variable_only(), branch = branch.variable_only(), branch_scale,
                         row_sequence, gamma, beta = beta.variable_only(), statistics,
                         sum = result.sum](Tape& tape, const Tensor& d_normalized, const Tensor& d_sum) {
    // The gradient of the residual takes the place of that of the sum where it can: not where the branch, being the
    // same variable, adds to it before this operation has written it.
    GradientTarget dx;
    const bool apart = residual.variable() != branch.variable();
    if (d_sum && apart && residual.requires_gradient() && tape.give_gradient(residual, d_sum)) {
      dx = {.tensor = d_sum, .mode = GradientMode::overwrite};
    } else {
      dx = tape.gradient_target(residual);
    }
    const GradientTarget d_branch = tape.gradient_target(branch);
    const GradientTarget dgamma = d_normalized ? tape.gradient_target(gamma) : GradientTarget();
    const GradientTarget dbeta = d_normalized ? tape.gradient_target(beta) : GradientTarget();
    layer_norm_backward({.sum = sum.array(),
                         .mean = statistics.mean.array(),
                         .rstd = statistics.rstd.array(),
                         .gamma = gamma.array(),
                         .d_normalized = d_normalized.array(),
                         .d_sum = d_sum.array(),
                         .branch_scale = branch_scale.array(),
                         .row_sequence = row_sequence.array(),
                         .dx = dx.tensor.array(),
                         .dx_mode = dx.mode,
                         .d_branch = d_branch.tensor.array(),
                         .d_branch_mode = d_branch.mode,
                         .dgamma = dgamma.tensor.array(),
                         .dgamma_mode = dgamma.mode,
                         .dbeta = dbeta.tensor.array(),
                         .dbeta_mode = dbeta.mode},
                        tape.stream());
  };
  tape.record("add_layer_norm.sum", result.sum,
              [backward](Tape& tape, const Tensor& d_sum) { backward(tape, Tensor(), d_sum); });
  tape.record("add_layer_norm", result.normalized,
              [backward, sum = result.sum](Tape& tape, const Tensor& d_normalized) {
                backward(tape, d_normalized, tape.take_gradient(sum));
              });
  return result;
}

}  // namespace dino
