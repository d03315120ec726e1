#pragma once

#include "kernels/common/cuda/cuda_stream.h"

#include <string_view>
#include <vector>

namespace dino::test {

/// A GPU's stream on which everything has finished when a call returns, as expect tests that look at results on the
/// host, and whose scratch memory comes poisoned. What the GPU meets in an operation is said with its name.
class TestStream final : public cuda::CudaStream, private OperationObserver {
 public:
  explicit TestStream(int ordinal);
  void* scratch(std::size_t size_bytes) override;
  void copy_from_host(void* to, const void* host, std::size_t size_bytes) override;
  void gather_from_host(void* to, std::span<const std::span<const std::byte>> parts) override;
  void copy(void* to, const void* from, std::size_t size_bytes) override;
  void zero(void* to, std::size_t size_bytes) override;

 private:
  void begin(const Operation& operation) override;
  void end() noexcept override;

  std::vector<std::string_view> operations_;  // that are being put on the stream, the outer ones first
};

}  // namespace dino::test
