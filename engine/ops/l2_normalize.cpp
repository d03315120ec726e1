#include "engine/ops/l2_normalize.h"

#include "kernels/l2_normalize/l2_normalize.h"

namespace dino {

Tensor l2_normalize(Tape& tape, const Tensor& x, double eps) {
  Tensor y = tape.output(x.shape(), x.dtype(), {&x});
  l2_normalize({.x = x.const_array(), .y = y.array(), .eps = eps}, tape.stream());
  tape.record("l2_normalize", y, [x, eps](Tape& tape, const Tensor& dy) {
    const GradientTarget dx = tape.gradient_target(x);
    l2_normalize_backward(
        {.x = x.const_array(), .dy = dy.const_array(), .dx = dx.tensor.array(), .eps = eps, .mode = dx.mode},
        tape.stream());
  });
  return y;
}

}  // namespace dino
