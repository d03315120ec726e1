#include "kernels/pos_embed/pos_embed.h"

#include "kernels/common/operation_cost.h"

namespace dino {

using namespace cost;

OperationCost cost_of(const ResizePosEmbed& a, Stream&) {
  return {.group = kTokens,
          .work = "",
          .size = size_of_array(a.positions) + size_of_array(a.resized),
          .bytes = bytes_of({a.positions, a.resized}),
          .flops = 32 * count(a.resized)};
}

OperationCost cost_of(const ResizePosEmbedBackward& a, Stream&) {
  if (a.mode == GradientMode::ignore) return {.group = kTokens};
  return {.group = kTokens,
          .work = options(a.d_resized.dtype(), a.mode),
          .size = size_of_array(a.d_positions) + size_of_array(a.d_resized),
          .bytes = bytes_of({a.d_resized}) + written(a.d_positions, a.mode),
          .flops = 32 * count(a.d_resized)};
}

}  // namespace dino
