#include "kernels/common/stream.h"

#include "kernels/common/aligned_buffer.h"
#include "kernels/common/error.h"

namespace dino {
namespace {

/// The copies have been made when start() returns.
class WaitingHostCopy final : public HostCopy {
 public:
  WaitingHostCopy(Stream& stream, std::size_t size_bytes) : stream_(stream), buffer_(size_bytes) {}

  void start(std::initializer_list<std::span<const std::byte>> parts) override {
    std::size_t offset = 0;
    for (const auto part : parts) {
      require(part.size() <= buffer_.size() - offset, "stream", "a host copy has {} bytes; got more", buffer_.size());
      stream_.copy_to_host(buffer_.data() + offset, part.data(), part.size());
      offset += part.size();
    }
  }
  bool ready() override { return true; }
  const std::byte* wait() override { return buffer_.data(); }

 private:
  Stream& stream_;
  AlignedBuffer buffer_;
};

}  // namespace

void Stream::gather_from_host(void* to, std::span<const std::span<const std::byte>> parts) {
  auto* place = static_cast<std::byte*>(to);
  for (const auto part : parts) {
    copy_from_host(place, part.data(), part.size());
    place += part.size();
  }
}

std::unique_ptr<HostCopy> Stream::make_host_copy(std::size_t size_bytes) {
  return std::make_unique<WaitingHostCopy>(*this, size_bytes);
}

}  // namespace dino
