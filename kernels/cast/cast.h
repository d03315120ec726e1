#pragma once

#include "kernels/common/array.h"
#include "kernels/common/operation.h"

namespace dino {

/// y = x in another element type, rounded to nearest even.
/// Traffic: reads and writes every element once.
struct Cast {
  ConstArray x;  // any shape, float32 or bfloat16
  Array y;       // same number of elements, float32 or bfloat16; must not overlap x
};
DINO_OPERATION(cast, Cast)

/// Throws Error unless the sizes are as declared above.
void check_cast(const Cast& args);

}  // namespace dino
