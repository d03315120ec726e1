#pragma once

#include "kernels/matmul/matmul.h"

namespace dino::cuda {

/// The product without its GELU, into `y`, for what cuBLASLt has no kernel for: operands and results of types that it
/// does not take together, addresses and row lengths that it does not like. Not fast, and not met in training.
void plain_matmul(const Matmul& args, const Array& y, Stream& stream);

}  // namespace dino::cuda
