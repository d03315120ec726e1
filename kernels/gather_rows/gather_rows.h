#pragma once

#include "kernels/common/array.h"
#include "kernels/common/gradient_mode.h"
#include "kernels/common/operation.h"

namespace dino {

/// y[r] = x[rows[r]]: the CLS rows out of a token matrix.
/// Traffic: reads and writes R rows.
struct GatherRows {
  ConstArray x;     // (T, C) float32 or bfloat16
  ConstArray rows;  // (R) int32, each in [0, T), none twice
  Array y;          // (R, C), element type of x
};
DINO_OPERATION(gather_rows, GatherRows)

/// dx[rows[r]] = dy[r] and zero in all other rows, or += where the mode is accumulate: then the others are not touched.
/// Traffic: overwriting writes all of dx; accumulating reads and writes R rows.
struct GatherRowsBackward {
  ConstArray dy;    // (R, C), element type of dx
  ConstArray rows;  // (R) int32
  Array dx;         // (T, C) float32 or bfloat16
  GradientMode mode = GradientMode::ignore;
};
DINO_OPERATION(gather_rows_backward, GatherRowsBackward)

/// Throw Error unless types and shapes are as declared above; what the rows are is not looked at, as it may be on a
/// device.
void check_gather_rows(const GatherRows& args);
void check_gather_rows(const GatherRowsBackward& args);

}  // namespace dino
