#include "engine/ops/weight_norm.h"

#include "kernels/weight_norm/weight_norm.h"

namespace dino {

Tensor weight_norm(Tape& tape, const Tensor& v, const Tensor& g, DType compute_type) {
  Tensor w = tape.output(v.shape(), compute_type, {&v, &g});
  weight_norm({.v = v.const_array(), .g = g.const_array(), .w = w.array()}, tape.stream());
  tape.record("weight_norm", w, [v, g](Tape& tape, const Tensor& dw) {
    const GradientTarget dv = tape.gradient_target(v);
    const GradientTarget dg = tape.gradient_target(g);
    weight_norm_backward({.v = v.const_array(),
                          .g = g.const_array(),
                          .dw = dw.const_array(),
                          .dv = dv.tensor.array(),
                          .dg = dg.tensor.array(),
                          .dv_mode = dv.mode,
                          .dg_mode = dg.mode},
                         tape.stream());
  });
  return w;
}

}  // namespace dino
