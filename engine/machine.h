#pragma once

#include "engine/context_cuda.h"

#include <memory>
#include <string>

namespace dino {

/// The GPUs that this build can use, or what is in the way.
CudaSurvey look_for_cuda();

/// The device that `device` (auto, cpu, cuda or cuda:N) names. auto is the first GPU where there are a driver and a
/// card, else the CPU. `memory_share` is make_cuda_context()'s. Throws Error, saying what was found, when a GPU that is
/// asked for cannot be used.
std::unique_ptr<Context> open_device(const std::string& device, double memory_share = kCudaMemoryShare);

/// `NVIDIA H200 (cuda:0), 139 GiB`, or `CPU, 2 threads`, and for auto why there is no GPU.
std::string describe_device(Context& context, const std::string& device);

/// The same for what auto would choose, without opening it.
std::string describe_automatic_device();

}  // namespace dino
