#pragma once

#include "kernels/common/dtype.h"
#include "kernels/common/stream.h"

#include <string_view>

namespace dino {

/// The element type of GEMMs and activations for `auto`, `fp32` or `bf16`. auto is bf16 on CUDA and on CPUs that
/// multiply bf16 in hardware (AMX or AVX-512 BF16), else fp32.
DType compute_type_for(std::string_view precision, Device device);

}  // namespace dino
