#pragma once

#include "kernels/common/aligned_buffer.h"
#include "kernels/common/cuda/cublas_lt.h"
#include "kernels/common/stream.h"

namespace dino::test {

/// A stream whose CUDA kernels run on the host (tests/simt) and whose products are the fake cuBLASLt's.
class CublasHostStream final : public HostMemoryStream, public cuda::CublasLtOwner {
 public:
  CublasHostStream();
  ~CublasHostStream() override;
  void* scratch(std::size_t size_bytes) override;
  cuda::CublasLt& cublas_lt() override { return cublas_lt_; }

 private:
  AlignedBuffer scratch_;
  AlignedBuffer workspace_;
  cuda::CublasLt cublas_lt_;
};

}  // namespace dino::test
