#include "kernels/common/cuda/cuda_stream.h"

#include "kernels/common/cuda/check.h"
#include "kernels/common/cuda/cublas_lt_api.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>

namespace dino::cuda {
namespace {

/// For destructors, which say what failed and go on. At the end of a program the runtime may be gone already. After a
/// fault of the device every call fails in the same way: it is said once.
void report(cudaError_t status, const char* call) {
  if (status == cudaSuccess || status == cudaErrorCudartUnloading) return;
  static std::atomic<cudaError_t> said = cudaSuccess;
  if (said.exchange(status) == status) return;
  std::fprintf(stderr, "dino_cuda: [cuda] %s failed: %s\n", call, cudaGetErrorString(status));
}
#define DINO_CUDA_REPORT(call) report((call), #call)

/// Copies into pinned memory, and an event behind them.
class CudaHostCopy final : public HostCopy {
 public:
  CudaHostCopy(Stream& stream, std::size_t size_bytes)
      : stream_(stream), memory_(stream.ordinal(), std::max<std::size_t>(size_bytes, 1)), copied_(stream.ordinal()) {}
  ~CudaHostCopy() override {
    try {
      copied_.wait();  // the device must not write to memory that is gone
    } catch (const Error& error) {
      std::fprintf(stderr, "dino_cuda: %s\n", error.what());
    }
  }

  void start(std::initializer_list<std::span<const std::byte>> parts) override {
    use_device(stream_.ordinal());
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    DINO_CUDA(cudaStreamIsCapturing(handle(), &capture));
    require(capture == cudaStreamCaptureStatusNone, "cuda", "a host copy cannot be part of a recording");
    std::size_t offset = 0;
    for (const auto part : parts) {
      require(part.size() <= memory_.size() - offset, "stream", "a host copy has {} bytes; got more", memory_.size());
      if (part.empty()) continue;
      DINO_CUDA(cudaMemcpyAsync(memory_.data() + offset, part.data(), part.size(), cudaMemcpyDeviceToHost, handle()));
      offset += part.size();
    }
    copied_.record(handle());
  }
  bool ready() override { return copied_.ready(); }
  const std::byte* wait() override {
    copied_.wait();
    return memory_.data();
  }

 private:
  cudaStream_t handle() const { return static_cast<cudaStream_t>(stream_.handle()); }

  Stream& stream_;
  PinnedBuffer memory_;
  Event copied_;
};

template <typename Handle, auto destroy>
struct Destroy {
  void operator()(Handle handle) const { report(destroy(handle), "destroying a CUDA graph"); }
};
template <typename Handle, auto destroy>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy<Handle, destroy>>;
using OwnedGraph = Owned<cudaGraph_t, cudaGraphDestroy>;
// The driver lets one that still runs come to its end.
using OwnedExecutable = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;

/// A graph made executable on its device.
class CudaGraph final : public StreamGraph {
 public:
  CudaGraph(Stream& stream, cudaGraph_t graph) : stream_(stream) {
    cudaGraphExec_t executable = nullptr;
    DINO_CUDA(cudaGraphInstantiate(&executable, graph, 0));
    executable_.reset(executable);
    // Puts it on the device now, so that the first replay is as fast as the others.
    DINO_CUDA(cudaGraphUpload(executable, handle()));
  }
  void replay() override {
    use_device(stream_.ordinal());
    DINO_CUDA(cudaGraphLaunch(executable_.get(), handle()));
  }

 private:
  cudaStream_t handle() const { return static_cast<cudaStream_t>(stream_.handle()); }

  Stream& stream_;
  OwnedExecutable executable_;
};

}  // namespace

StreamHandle::StreamHandle(int ordinal) : ordinal_(ordinal) {
  use_device(ordinal);
  DINO_CUDA(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking));
}
StreamHandle::~StreamHandle() {
  if (handle_ != nullptr) DINO_CUDA_REPORT(cudaStreamDestroy(handle_));
}
StreamHandle::StreamHandle(StreamHandle&& other) noexcept
    : ordinal_(other.ordinal_), handle_(std::exchange(other.handle_, nullptr)) {}

Event::Event(int ordinal) : ordinal_(ordinal) {
  use_device(ordinal);
  DINO_CUDA(cudaEventCreateWithFlags(&handle_, cudaEventDisableTiming));
}
Event::~Event() {
  if (handle_ != nullptr) DINO_CUDA_REPORT(cudaEventDestroy(handle_));
}
Event::Event(Event&& other) noexcept : ordinal_(other.ordinal_), handle_(std::exchange(other.handle_, nullptr)) {}
Event& Event::operator=(Event&& other) noexcept {
  std::swap(ordinal_, other.ordinal_);
  std::swap(handle_, other.handle_);
  return *this;
}

void Event::record(CUstream_st* stream) {
  use_device(ordinal_);
  DINO_CUDA(cudaEventRecord(handle_, stream));
}
void Event::hold(CUstream_st* stream) const {
  use_device(ordinal_);
  DINO_CUDA(cudaStreamWaitEvent(stream, handle_, 0));
}
bool Event::ready() const {
  const cudaError_t status = cudaEventQuery(handle_);
  if (status == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  check(status, "cudaEventQuery", __FILE__, __LINE__);
  return true;
}
void Event::wait() const { DINO_CUDA(cudaEventSynchronize(handle_)); }

DeviceBuffer::DeviceBuffer(int ordinal, std::size_t size_bytes, const char* purpose)
    : ordinal_(ordinal), size_(size_bytes) {
  use_device(ordinal);
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, size_bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    std::size_t free_bytes = 0;
    std::size_t total_bytes = 0;
    DINO_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
    fail("cuda", "out of memory on device {}: {} MiB asked for as {}, {} of {} MiB free; try a smaller batch", ordinal,
         size_bytes >> 20, purpose, free_bytes >> 20, total_bytes >> 20);
  }
  check(status, "cudaMalloc", __FILE__, __LINE__);
  data_ = static_cast<std::byte*>(data);
}
DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) DINO_CUDA_REPORT(cudaFree(data_));
}
DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : ordinal_(other.ordinal_),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, std::size_t{0})) {}
DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(ordinal_, other.ordinal_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

PinnedBuffer::PinnedBuffer(int ordinal, std::size_t size_bytes) : ordinal_(ordinal), size_(size_bytes) {
  use_device(ordinal);
  void* data = nullptr;
  DINO_CUDA(cudaHostAlloc(&data, size_bytes, cudaHostAllocDefault));
  data_ = static_cast<std::byte*>(data);
}
PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) DINO_CUDA_REPORT(cudaFreeHost(data_));
}
PinnedBuffer::PinnedBuffer(PinnedBuffer&& other) noexcept
    : ordinal_(other.ordinal_),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, std::size_t{0})) {}
PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& other) noexcept {
  std::swap(ordinal_, other.ordinal_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

StagingRing::StagingRing(int ordinal, CUstream_st* stream)
    : ordinal_(ordinal), stream_(stream), beside_(ordinal), landed_(ordinal) {
  add_slot();
}

void StagingRing::add_slot() {
  const auto at = slots_.begin() + static_cast<std::ptrdiff_t>(slots_.empty() ? 0 : slot_ + 1);
  slots_.insert(at, {PinnedBuffer(ordinal_, kSlotBytes), DeviceBuffer(ordinal_, kSlotBytes, "copies on their way"),
                     Event(ordinal_)});
}

void StagingRing::next_slot() {
  slots_[slot_].used.record(stream_);
  std::size_t next = (slot_ + 1) % slots_.size();
  if (slots_.size() < most_slots_ && !slots_[next].used.ready()) {
    try {
      add_slot();
      next = slot_ + 1;
    } catch (const Error&) {
      most_slots_ = slots_.size();  // the system does not pin more, or the device has no more
    }
  }
  slot_ = next;
  slots_[slot_].used.wait();
  sent_ = filled_ = 0;
}

void StagingRing::send(std::byte*& to) {
  const std::size_t size_bytes = filled_ - sent_;
  if (size_bytes == 0) return;
  const Slot& slot = slots_[slot_];
  const std::byte* staged = slot.memory.data() + sent_;
  if (size_bytes < kLarge) {
    DINO_CUDA(cudaMemcpyAsync(to, staged, size_bytes, cudaMemcpyHostToDevice, stream_));
  } else {
    // Nobody else touches this part of the landing until the slot is used again.
    std::byte* landing = slot.landing.data() + sent_;
    DINO_CUDA(cudaMemcpyAsync(landing, staged, size_bytes, cudaMemcpyHostToDevice, beside_.get()));
    landed_.record(beside_.get());
    landed_.hold(stream_);
    DINO_CUDA(cudaMemcpyAsync(to, landing, size_bytes, cudaMemcpyDeviceToDevice, stream_));
  }
  to += size_bytes;
  // Copies that begin at a multiple of 64 bytes are the fast ones.
  sent_ = filled_ = std::min(kSlotBytes, (filled_ + 63) / 64 * 64);
}

void StagingRing::copy_to_device(std::byte* to, std::span<const std::span<const std::byte>> parts) {
  for (auto part : parts) {
    while (!part.empty()) {
      if (filled_ == kSlotBytes) {
        send(to);
        next_slot();
      }
      const std::size_t size_bytes = std::min(part.size(), kSlotBytes - filled_);
      std::memcpy(slots_[slot_].memory.data() + filled_, part.data(), size_bytes);
      filled_ += size_bytes;
      part = part.subspan(size_bytes);
    }
  }
  send(to);
}

CudaStream::CudaStream(int ordinal, StreamHandle handle)
    : Stream(Device::cuda, ordinal, handle.get()), stream_(std::move(handle)), waited_for_(ordinal) {}

CudaStream::~CudaStream() {
  // Memory must not go while work that uses it is on the stream.
  DINO_CUDA_REPORT(cudaStreamSynchronize(stream_.get()));
}

void CudaStream::require_not_recording(const char* what) const {
  require(!recording_, "cuda", "{} cannot be part of a recording", what);
}

void* CudaStream::scratch(std::size_t size_bytes) {
  constexpr std::size_t kLeast = std::size_t{64} << 20;
  if (scratch_.empty() || scratch_.back().size() < size_bytes) {
    const std::size_t grown = scratch_.empty() ? kLeast : 2 * scratch_.back().size();
    scratch_.emplace_back(ordinal(), std::max(size_bytes, grown), "scratch memory");
  }
  return scratch_.back().data();
}

void CudaStream::copy_from_host(void* to, const void* host, std::size_t size_bytes) {
  const std::span<const std::byte> part(static_cast<const std::byte*>(host), size_bytes);
  gather_from_host(to, {&part, 1});
}

void CudaStream::gather_from_host(void* to, std::span<const std::span<const std::byte>> parts) {
  require_not_recording("a copy from the host");
  use_device(ordinal());
  if (!staging_) staging_ = std::make_unique<StagingRing>(ordinal(), stream_.get());
  staging_->copy_to_device(static_cast<std::byte*>(to), parts);
}

void CudaStream::copy_to_host(void* host, const void* from, std::size_t size_bytes) {
  require_not_recording("a copy to the host");
  if (size_bytes == 0) return;
  use_device(ordinal());
  DINO_CUDA(cudaMemcpyAsync(host, from, size_bytes, cudaMemcpyDeviceToHost, stream_.get()));
  synchronize();
}

void CudaStream::copy(void* to, const void* from, std::size_t size_bytes) {
  if (size_bytes == 0) return;
  use_device(ordinal());
  DINO_CUDA(cudaMemcpyAsync(to, from, size_bytes, cudaMemcpyDeviceToDevice, stream_.get()));
}

void CudaStream::zero(void* to, std::size_t size_bytes) {
  if (size_bytes == 0) return;
  use_device(ordinal());
  DINO_CUDA(cudaMemsetAsync(to, 0, size_bytes, stream_.get()));
}

void CudaStream::synchronize() {
  require_not_recording("to wait for the stream");
  use_device(ordinal());
  DINO_CUDA(cudaStreamSynchronize(stream_.get()));
}

std::unique_ptr<Stream> CudaStream::make_side_stream() { return std::make_unique<CudaStream>(ordinal()); }

void CudaStream::wait_for(Stream& other) {
  waited_for_.record(static_cast<CUstream_st*>(other.handle()));
  waited_for_.hold(stream_.get());
}

std::unique_ptr<HostCopy> CudaStream::make_host_copy(std::size_t size_bytes) {
  return std::make_unique<CudaHostCopy>(*this, size_bytes);
}

bool CudaStream::begin_recording() {
  require_not_recording("a second recording");
  use_device(ordinal());
  DINO_CUDA(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeRelaxed));
  recording_ = true;
  return true;
}

std::unique_ptr<StreamGraph> CudaStream::end_recording() {
  require(recording_, "cuda", "there is no recording to end");
  recording_ = false;
  cudaGraph_t graph = nullptr;
  DINO_CUDA(cudaStreamEndCapture(stream_.get(), &graph));
  const OwnedGraph owned(graph);
  return std::make_unique<CudaGraph>(*this, graph);
}

void CudaStream::cancel_recording() noexcept {
  if (!recording_) return;
  recording_ = false;
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(stream_.get(), &graph);  // what was wrong with it has been reported
  if (graph != nullptr) cudaGraphDestroy(graph);
  cudaGetLastError();
}

CublasLt& CudaStream::cublas_lt() {
  use_device(ordinal());  // also for what the caller does with it
  if (!cublas_lt_) {
    const CublasLtApi& api = cublas_lt_library();
    workspace_ = std::make_unique<DeviceBuffer>(ordinal(), CublasLt::kWorkspaceBytes, "cuBLASLt's workspace");
    cublas_lt_ = std::make_unique<CublasLt>(api, workspace_->data());
  }
  return *cublas_lt_;
}

}  // namespace dino::cuda
