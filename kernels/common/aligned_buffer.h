#pragma once

#include "kernels/common/out_of_memory.h"

#include <cstddef>
#include <cstdlib>
#include <memory>

namespace dino {

/// Host memory that it owns, uninitialised, 64-byte aligned (a cache line, a full AVX-512 vector).
class AlignedBuffer {
 public:
  static constexpr std::size_t kAlignment = 64;

  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t size_bytes) : size_(size_bytes) {
    const std::size_t padded = (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, padded > 0 ? padded : kAlignment)));
    if (!data_) throw OutOfMemory(size_bytes);
  }

  std::byte* data() const { return data_.get(); }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace dino
