#include "engine/ops/gather_rows.h"

#include "kernels/gather_rows/gather_rows.h"

namespace dino {

Tensor gather_rows(Tape& tape, const Tensor& x, const Tensor& rows) {
  require(x.shape().rank() == 2, "gather_rows", "x has shape (T, C); got {}", x.shape().to_string());
  Tensor y = tape.output({rows.size(), x.extent(1)}, x.dtype(), {&x});
  gather_rows({.x = x.const_array(), .rows = rows.const_array(), .y = y.array()}, tape.stream());
  tape.record("gather_rows", y, [x, rows](Tape& tape, const Tensor& dy) {
    const GradientTarget dx = tape.gradient_target(x);
    gather_rows_backward({.dy = dy.const_array(), .rows = rows.const_array(), .dx = dx.tensor.array(), .mode = dx.mode},
                         tape.stream());
  });
  return y;
}

}  // namespace dino
