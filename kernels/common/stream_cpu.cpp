#include "kernels/common/aligned_buffer.h"
#include "kernels/common/stream.h"

namespace dino {
namespace {

class CpuStream final : public HostMemoryStream {
 public:
  CpuStream() : HostMemoryStream(Device::cpu, 0, nullptr) {}

  void* scratch(std::size_t size_bytes) override {
    if (scratch_.size() < size_bytes) {
      scratch_ = AlignedBuffer(size_bytes + size_bytes / 4);
    }
    return scratch_.data();
  }

 private:
  AlignedBuffer scratch_;
};

}  // namespace

std::unique_ptr<Stream> make_cpu_stream() { return std::make_unique<CpuStream>(); }

}  // namespace dino
