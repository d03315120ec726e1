#pragma once

#include "kernels/common/error.h"

#include <cuda_runtime_api.h>

#include <string_view>

/// Calls a function of the CUDA runtime and throws Error, naming the call, the place and the device, unless it returned
/// cudaSuccess: `DINO_CUDA(cudaMalloc(&p, bytes))`.
#define DINO_CUDA(call) ::dino::cuda::check((call), #call, __FILE__, __LINE__)

namespace dino::cuda {

/// Throws Error with what a CUDA library said: the call without its arguments, the file, the line and the device.
[[noreturn]] inline void fail_call(std::string_view call, std::string_view file, int line, std::string_view what) {
  int device = -1;
  if (cudaGetDevice(&device) != cudaSuccess) device = -1;
  fail("cuda", "{} failed at {}:{} on device {}: {}", call.substr(0, call.find('(')), file.substr(file.rfind('/') + 1),
       line, device, what);
}

inline void check(cudaError_t status, std::string_view call, std::string_view file, int line) {
  if (status == cudaSuccess) [[likely]]
    return;
  cudaGetLastError();  // it is reported here, not again by the next launch
  fail_call(call, file, line, fmt::format("{} ({})", cudaGetErrorString(status), cudaGetErrorName(status)));
}

/// Makes a device the calling thread's, where it is not yet. CUDA keeps one per thread, and every call means that one.
inline void use_device(int ordinal) {
  int current = -1;
  DINO_CUDA(cudaGetDevice(&current));
  if (current != ordinal) DINO_CUDA(cudaSetDevice(ordinal));
}

}  // namespace dino::cuda
