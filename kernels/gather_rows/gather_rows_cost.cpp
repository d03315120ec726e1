#include "kernels/gather_rows/gather_rows.h"

#include "kernels/common/operation_cost.h"

namespace dino {

using namespace cost;

OperationCost cost_of(const GatherRows& a, Stream&) {
  return {.group = kTokens,
          .work = options(a.x.dtype()),
          .size = size_of_array(a.y),
          .bytes = 2 * bytes_of({a.y}),
          .type = a.x.dtype()};
}

OperationCost cost_of(const GatherRowsBackward& a, Stream&) {
  if (a.mode == GradientMode::ignore) return {.group = kTokens};
  const double rows = bytes_of({a.dy});
  return {.group = kTokens,
          .work = options(a.dx.dtype(), a.mode),
          .size = size_of_array(a.dy) + size_of_array(a.dx),
          .bytes = a.mode == GradientMode::accumulate ? 3 * rows : rows + bytes_of({a.dx}),
          .type = a.dx.dtype()};
}

}  // namespace dino
