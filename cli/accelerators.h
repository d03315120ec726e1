#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace dino {

/// What its maker says of an accelerator: dense rates with fp32 sums, without sparsity. Published, not measured.
struct Accelerator {
  std::string_view name;    // as --for takes it
  std::string_view title;   // `NVIDIA H200 SXM`
  double memory_bytes;      // as advertised, in powers of ten: what the driver reports is a little more
  double bytes_per_s;       // of its memory
  double bf16_flops_per_s;  // tensor cores
  double fp32_flops_per_s;  // without TF32, as this program multiplies fp32
  std::string_view source;
};

std::span<const Accelerator> accelerators();
/// Throws Error that lists the names, for one that is not there.
const Accelerator& accelerator_of(std::string_view name);

/// The part of an accelerator's memory that a run gets for tensors when nobody else uses it: less what the CUDA runtime
/// takes, times the program's share (engine/context_cuda.h).
std::size_t tensor_memory_bytes(const Accelerator& accelerator);

}  // namespace dino
