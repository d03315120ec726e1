#include "engine/ops/linear.h"

#include "kernels/column_sum/column_sum.h"
#include "kernels/gelu/gelu.h"
#include "kernels/matmul/matmul.h"

namespace dino {
namespace {

Shape output_shape(const Tensor& x, const Tensor& weight) {
  require(x.shape().rank() == 2 && weight.shape().rank() == 2, "linear", "x and weight are matrices; got {} and {}",
          x.shape().to_string(), weight.shape().to_string());
  return {x.extent(0), weight.extent(0)};
}

/// A factor is kept only where the gradient of the other one needs it.
Tensor kept_for(const Tensor& other, const Tensor& factor) {
  return other.requires_gradient() ? factor : factor.variable_only();
}

/// dx = dz·weight and dweight = dzᵀ·x, where these are wanted.
void product_backward(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& dz) {
  if (weight.requires_gradient()) {
    const GradientTarget target = tape.gradient_target(weight);
    matmul({.a = dz.array(), .b = x.array(), .y = target.tensor.array(), .transpose_a = true, .mode = target.mode},
           tape.stream());
  }
  if (x.requires_gradient()) {
    const GradientTarget target = tape.gradient_target(x);
    matmul({.a = dz.array(), .b = weight.array(), .y = target.tensor.array(), .mode = target.mode}, tape.stream());
  }
}

}  // namespace

Tensor linear(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  Tensor y = tape.output(output_shape(x, weight), x.dtype(), {&x, &weight, &bias});
  matmul({.a = x.array(), .b = weight.array(), .bias = bias.array(), .y = y.array(), .transpose_b = true},
         tape.stream());
  tape.record("linear", y,
              [x = kept_for(weight, x), weight = kept_for(x, weight), bias = bias.variable_only()](Tape& tape,
                                                                                                   const Tensor& dy) {
                const GradientTarget dbias = tape.gradient_target(bias);
                column_sum({.x = dy.array(), .y = dbias.tensor.array(), .mode = dbias.mode}, tape.stream());
                product_backward(tape, x, weight, dy);
              });
  return y;
}

Tensor linear_gelu(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  Tensor y = tape.output(output_shape(x, weight), x.dtype(), {&x, &weight, &bias});
  Tensor z = y.requires_gradient() ? tape.context().empty(y.shape(), y.dtype()) : Tensor();
  matmul({.a = x.array(),
          .b = weight.array(),
          .bias = bias.array(),
          .y = y.array(),
          .transpose_b = true,
          .gelu = true,
          .preactivation = z.array()},
         tape.stream());
  tape.record("linear_gelu", y,
              [x = kept_for(weight, x), weight = kept_for(x, weight), bias = bias.variable_only(), z](
                  Tape& tape, const Tensor& dy) {
                // The gradient of z takes z's own place: nothing reads z after this.
                const GradientTarget dbias = tape.gradient_target(bias);
                gelu_backward({.x = z.array(),
                               .dy = dy.array(),
                               .dx = z.array(),
                               .mode = GradientMode::overwrite,
                               .dbias = dbias.tensor.array(),
                               .dbias_mode = dbias.mode},
                              tape.stream());
                product_backward(tape, x, weight, z);
              });
  return y;
}

}  // namespace dino
