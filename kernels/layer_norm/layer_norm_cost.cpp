#include "kernels/layer_norm/layer_norm.h"

#include "kernels/common/operation_cost.h"

namespace dino {

using namespace cost;

OperationCost cost_of(const LayerNormForward& a, Stream&) {
  return {.group = kNorm,
          .work = options(a.x.dtype()) + (a.branch ? ", branch" : "") + (a.branch_scale ? ", scaled" : ""),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x, a.branch, a.sum, a.normalized}),
          .flops = 8 * count(a.x),
          .type = a.x.dtype()};
}

OperationCost cost_of(const LayerNormBackward& a, Stream&) {
  return {.group = kNorm,
          .work = fmt::format("{}{}{}{}", options(a.sum.dtype(), a.dx_mode), a.d_normalized ? ", normalized" : "",
                              a.d_sum ? ", sum" : "", a.branch_scale ? ", scaled" : ""),
          .size = size_of_array(a.sum),
          .bytes = bytes_of({a.sum, a.d_normalized, a.d_sum}) + written(a.dx, a.dx_mode) +
                   written(a.d_branch, a.d_branch_mode),
          .flops = 16 * count(a.sum),
          .type = a.sum.dtype()};
}

}  // namespace dino
