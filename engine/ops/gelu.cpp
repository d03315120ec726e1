#include "engine/ops/gelu.h"

#include "kernels/gelu/gelu.h"

namespace dino {

Tensor gelu(Tape& tape, const Tensor& x) {
  Tensor y = tape.output(x.shape(), x.dtype(), {&x});
  gelu_forward({.x = x.array(), .y = y.array()}, tape.stream());
  tape.record("gelu", y, [x](Tape& tape, const Tensor& dy) {
    const GradientTarget dx = tape.gradient_target(x);
    gelu_backward({.x = x.array(), .dy = dy.array(), .dx = dx.tensor.array(), .mode = dx.mode}, tape.stream());
  });
  return y;
}

}  // namespace dino
