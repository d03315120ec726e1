#pragma once

#include "engine/context.h"

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace dino {

/// An NVIDIA GPU that the program can use.
struct CudaDevice {
  int ordinal = 0;
  std::string name;          // `NVIDIA H200`
  int major = 0, minor = 0;  // compute capability
  std::size_t memory_bytes = 0;
};

/// What there is of CUDA on this machine. Never throws: to be without is no error.
struct CudaSurvey {
  std::vector<CudaDevice> devices;  // of compute capability 8.0 and later
  std::string obstacle;             // why there are none: what was found, and what to try
};

// Weak, as CUDA kernels are (docs/adr/0004): a program has them when it was built with the toolkit.

[[gnu::weak]] CudaSurvey survey_cuda();

/// A GPU as a device. Takes `memory_share` of the memory that is free now for tensors, in one block whose addresses
/// never change (docs/adr/0006); the rest is for scratch memory, libraries and code. Throws Error when the device
/// cannot be used.
inline constexpr double kCudaMemoryShare = 0.9;
[[gnu::weak]] std::unique_ptr<Context> make_cuda_context(int ordinal, double memory_share = kCudaMemoryShare);

}  // namespace dino
