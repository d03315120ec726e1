#pragma once

#include "kernels/common/aligned_buffer.h"
#include "kernels/common/stream.h"
#include "tests/simt/device.h"

#include <cstring>
#include <memory>

namespace dino::simt {

/// A stream for which operations choose their CUDA kernels; these run on the host, in the caller's thread, at once.
class HostStream final : public HostMemoryStream {
 public:
  HostStream() : HostMemoryStream(Device::cuda, 0, nullptr) {}
  void* scratch(std::size_t size_bytes) override {
    // Of the exact size, for the address sanitizer, and poisoned each time.
    scratch_ = AlignedBuffer(size_bytes);
    std::memset(scratch_.data(), 0xff, size_bytes);
    return scratch_.data();
  }

 private:
  AlignedBuffer scratch_;
};

inline std::unique_ptr<Stream> make_host_stream() { return std::make_unique<HostStream>(); }

}  // namespace dino::simt
