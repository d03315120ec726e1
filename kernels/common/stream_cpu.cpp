#include "kernels/common/aligned_buffer.h"
#include "kernels/common/stream.h"

#include <sys/mman.h>

namespace dino {
namespace {

class CpuStream final : public HostMemoryStream {
 public:
  CpuStream() : HostMemoryStream(Device::cpu, 0, nullptr) {}

  void* scratch(std::size_t size_bytes) override {
    if (size_ < size_bytes) {
      // Whole huge pages: packed operands are read all over, and small pages cost products up to a tenth.
      const std::size_t wanted = (size_bytes + size_bytes / 4 + kHugePage - 1) / kHugePage * kHugePage;
      buffer_ = AlignedBuffer(wanted + kHugePage - AlignedBuffer::kAlignment);
      const auto address = reinterpret_cast<std::uintptr_t>(buffer_.data());
      scratch_ = buffer_.data() + (kHugePage - address % kHugePage) % kHugePage;
      size_ = wanted;
      madvise(scratch_, size_, MADV_HUGEPAGE);  // only a hint
    }
    return scratch_;
  }

 private:
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;

  AlignedBuffer buffer_;
  std::byte* scratch_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace

std::unique_ptr<Stream> make_cpu_stream() { return std::make_unique<CpuStream>(); }

}  // namespace dino
