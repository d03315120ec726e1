#include "tests/simt/host_stream.h"

#include "kernels/common/aligned_buffer.h"
#include "kernels/common/error.h"
#include "kernels/matmul/matmul.h"

#include <cstring>
#include <utility>

namespace dino::simt {
namespace {

constexpr std::size_t kTensorBytes = HostDevice::kMemoryBytes / 4 * 3;

class HostGraph final : public StreamGraph {
 public:
  HostGraph(std::shared_ptr<HostDevice> device, std::vector<HostDevice::Work> work)
      : device_(std::move(device)), work_(std::move(work)) {}

  void replay() override {
    require(!device_->recording(), "simt", "a graph is replayed in a recording");
    device_->submit([this] {
      for (const HostDevice::Work& work : work_) work();
    });
  }

 private:
  std::shared_ptr<HostDevice> device_;
  std::vector<HostDevice::Work> work_;
};

class LateHostCopy final : public HostCopy {
 public:
  LateHostCopy(Stream& stream, std::size_t size_bytes) : stream_(stream), buffer_(size_bytes) {}

  void start(std::initializer_list<std::span<const std::byte>> parts) override {
    require(questions_left_ == 0, "simt", "a host copy is started again before it was waited for");
    std::size_t offset = 0;
    for (const auto part : parts) {
      require(part.size() <= buffer_.size() - offset, "simt", "a host copy has {} bytes; got more", buffer_.size());
      stream_.copy_to_host(buffer_.data() + offset, part.data(), part.size());
      offset += part.size();
    }
    questions_left_ = 2;
  }
  bool ready() override {
    if (questions_left_ > 0) --questions_left_;
    return questions_left_ == 0;
  }
  const std::byte* wait() override {
    questions_left_ = 0;
    return buffer_.data();
  }

 private:
  Stream& stream_;
  AlignedBuffer buffer_;
  int questions_left_ = 0;
};

}  // namespace

HostStream::HostStream(std::shared_ptr<HostDevice> device)
    : Stream(Device::cuda, 0, nullptr),
      device_(std::move(device)),
      scratch_arena_(std::make_shared<HostArena>(device_, kTensorBytes, HostDevice::kMemoryBytes)) {}

void* HostStream::scratch(std::size_t size_bytes) {
  scratch_.reset();
  scratch_ = std::make_shared<Storage>(scratch_arena_, size_bytes);
  // A recording keeps its own.
  if (device_->recording()) device_->submit([keep = scratch_] {});
  return scratch_->data();
}

void HostStream::copy_from_host(void* to, const void* host, std::size_t size_bytes) {
  require_not_recording("copy_from_host");
  copy(to, host, size_bytes);
}

void HostStream::copy_to_host(void* host, const void* from, std::size_t size_bytes) {
  require_not_recording("copy_to_host");
  copy(host, from, size_bytes);
}

void HostStream::copy(void* to, const void* from, std::size_t size_bytes) {
  if (size_bytes == 0) return;
  device_->submit([=] { std::memcpy(to, from, size_bytes); });
}

void HostStream::zero(void* to, std::size_t size_bytes) {
  if (size_bytes == 0) return;
  device_->submit([=] { std::memset(to, 0, size_bytes); });
}

void HostStream::synchronize() { require_not_recording("synchronize"); }

std::unique_ptr<HostCopy> HostStream::make_host_copy(std::size_t size_bytes) {
  return std::make_unique<LateHostCopy>(*this, size_bytes);
}

bool HostStream::begin_recording() {
  device_->begin_recording();
  return true;
}

std::unique_ptr<StreamGraph> HostStream::end_recording() {
  return std::make_unique<HostGraph>(device_, device_->end_recording());
}

void HostStream::cancel_recording() noexcept { device_->end_recording(); }

void HostStream::require_not_recording(const char* what) const {
  require(!device_->recording(), "simt", "{} was called in a recording", what);
}

std::unique_ptr<Stream> make_host_stream() { return std::make_unique<HostStream>(std::make_shared<HostDevice>()); }

std::unique_ptr<Context> make_host_context() {
  auto device = std::make_shared<HostDevice>();
  return std::make_unique<Context>(std::make_unique<HostStream>(device),
                                   std::make_shared<HostArena>(device, 0, kTensorBytes));
}

void submit(Stream& stream, std::function<void()> work) {
  static_cast<HostStream&>(stream).host_device().submit(std::move(work));
}

}  // namespace dino::simt

namespace dino::cuda {

/// In place of cuBLASLt.
void matmul(const Matmul& args, Stream& stream) {
  checked_size(args);
  simt::submit(stream, [args] {
    static const std::unique_ptr<Stream> cpu_stream = make_cpu_stream();
    cpu::matmul(args, *cpu_stream);
  });
}

}  // namespace dino::cuda
