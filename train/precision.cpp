#include "train/precision.h"

#include "kernels/common/error.h"

#include <oneapi/dnnl/dnnl.hpp>

namespace dino {
namespace {

bool multiplies_bf16(Device device) {
  if (device == Device::cuda) return true;
  // Asks the library that does the multiplying, which also respects what the user has forbidden it.
  const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  const auto needed = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
  return (isa & needed) == needed;
}

}  // namespace

DType compute_type_for(std::string_view precision, Device device) {
  if (precision == "fp32") return DType::float32;
  if (precision == "bf16") return DType::bfloat16;
  require(precision == "auto", "precision", "unknown precision; got {}, expected auto, fp32 or bf16", precision);
  return multiplies_bf16(device) ? DType::bfloat16 : DType::float32;
}

}  // namespace dino
