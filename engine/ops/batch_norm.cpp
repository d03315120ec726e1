#include "engine/ops/batch_norm.h"

#include "kernels/batch_norm/batch_norm.h"

namespace dino {

Tensor batch_norm(Tape& tape, const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps,
                  Communicator& communicator, const Tensor& statistics) {
  require(x.shape().rank() == 2, "batch_norm", "x has shape (R, C); got {}", x.shape().to_string());
  Context& context = tape.context();
  const std::int64_t width = x.extent(1);
  const Tensor sums = context.empty({width + 1}, DType::float32);
  const Tensor squares = context.empty({width}, DType::float32);
  const Tensor mean = context.empty({width}, DType::float32);
  const Tensor inverse_std = context.empty({width}, DType::float32);
  Tensor y = tape.output(x.shape(), x.dtype(), {&x, &gamma, &beta});

  batch_norm_sums({.x = x.const_array(), .sums = sums.array()}, tape.stream());
  communicator.all_reduce_sum(sums.array(), tape.stream(), "batch norm, sums");
  batch_norm_squares({.x = x.const_array(), .sums = sums.const_array(), .squares = squares.array()}, tape.stream());
  communicator.all_reduce_sum(squares.array(), tape.stream(), "batch norm, squares");
  batch_norm_forward({.x = x.const_array(),
                      .sums = sums.const_array(),
                      .squares = squares.const_array(),
                      .gamma = gamma.const_array(),
                      .beta = beta.const_array(),
                      .eps = eps,
                      .y = y.array(),
                      .mean = mean.array(),
                      .inverse_std = inverse_std.array(),
                      .statistics = statistics.array()},
                     tape.stream());

  tape.record("batch_norm", y, [x, gamma, beta, sums, mean, inverse_std, &communicator](Tape& tape, const Tensor& dy) {
    const GradientTarget d_gamma = tape.gradient_target(gamma);
    const GradientTarget d_beta = tape.gradient_target(beta);
    const GradientTarget dx = tape.gradient_target(x);
    const Tensor gradient_sums = tape.context().empty({2, x.extent(1)}, DType::float32);
    batch_norm_backward_sums({.x = x.const_array(),
                              .dy = dy.const_array(),
                              .mean = mean.const_array(),
                              .inverse_std = inverse_std.const_array(),
                              .sums = gradient_sums.array(),
                              .d_gamma = d_gamma.tensor.array(),
                              .d_beta = d_beta.tensor.array(),
                              .gamma_mode = d_gamma.mode,
                              .beta_mode = d_beta.mode},
                             tape.stream());
    // Also where dx is not wanted: every rank takes part in every collective.
    communicator.all_reduce_sum(gradient_sums.array(), tape.stream(), "batch norm, gradients");
    batch_norm_backward({.x = x.const_array(),
                         .dy = dy.const_array(),
                         .mean = mean.const_array(),
                         .inverse_std = inverse_std.const_array(),
                         .gamma = gamma.const_array(),
                         .sums = gradient_sums.const_array(),
                         .forward_sums = sums.const_array(),
                         .dx = dx.tensor.array(),
                         .mode = dx.mode},
                        tape.stream());
  });
  return y;
}

}  // namespace dino
