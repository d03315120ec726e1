#pragma once

#include "kernels/common/cuda/cuda_stream.h"

namespace dino::test {

/// A GPU's stream on which everything has finished when a call returns (kernels: CUDA_LAUNCH_BLOCKING), as tests that
/// look at results on the host expect, and whose scratch memory comes poisoned.
class TestStream final : public cuda::CudaStream {
 public:
  using CudaStream::CudaStream;
  void* scratch(std::size_t size_bytes) override;
  void copy_from_host(void* to, const void* host, std::size_t size_bytes) override;
  void copy(void* to, const void* from, std::size_t size_bytes) override;
  void zero(void* to, std::size_t size_bytes) override;
};

}  // namespace dino::test
