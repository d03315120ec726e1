#pragma once

#include "kernels/common/dtype.h"
#include "kernels/common/stream.h"

#include <string_view>

namespace dino {

/// The element type of GEMMs and activations for `auto`, `fp32` or `bf16`. auto is bf16 on CUDA and on CPUs that
/// multiply bf16 faster than fp32 (cpu::multiplies_bf16_faster), else fp32.
DType compute_type_for(std::string_view precision, Device device);

}  // namespace dino
