#include "train/precision.h"

#include "kernels/common/error.h"
#include "kernels/matmul/onednn_matmul.h"

namespace dino {

DType compute_type_for(std::string_view precision, Device device) {
  if (precision == "fp32") return DType::float32;
  if (precision == "bf16") return DType::bfloat16;
  require(precision == "auto", "precision", "unknown precision; got {}, expected auto, fp32 or bf16", precision);
  return device == Device::cuda || cpu::multiplies_bf16_faster() ? DType::bfloat16 : DType::float32;
}

}  // namespace dino
