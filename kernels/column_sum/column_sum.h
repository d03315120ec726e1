#pragma once

#include "kernels/common/array.h"
#include "kernels/common/gradient_mode.h"
#include "kernels/common/operation.h"

namespace dino {

/// y = sum over the rows of x: the gradient of a bias that was added to every row.
/// Traffic: reads x once. Numerics: fp32 sums over blocks of rows, added up in order; the same bits for any number of
/// threads.
struct ColumnSum {
  ConstArray x;  // (R, C), float32 or bfloat16
  Array y;       // (C) fp32
  GradientMode mode = GradientMode::overwrite;
};
DINO_OPERATION(column_sum, ColumnSum)

/// Throws Error unless types and shapes are as declared above.
void check_column_sum(const ColumnSum& args);

}  // namespace dino
