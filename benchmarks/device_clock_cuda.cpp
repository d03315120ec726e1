#include "benchmarks/device_clock.h"

#include "kernels/common/cuda/check.h"

namespace dino::bench {
namespace {

class TimedEvent {
 public:
  TimedEvent() { DINO_CUDA(cudaEventCreate(&handle_)); }
  ~TimedEvent() { cudaEventDestroy(handle_); }
  TimedEvent(const TimedEvent&) = delete;
  TimedEvent& operator=(const TimedEvent&) = delete;
  cudaEvent_t get() const { return handle_; }

 private:
  cudaEvent_t handle_ = nullptr;
};

class CudaClock final : public DeviceClock {
 public:
  explicit CudaClock(Stream& stream) : stream_(static_cast<cudaStream_t>(stream.handle())) {}
  void begin() override { DINO_CUDA(cudaEventRecord(begin_.get(), stream_)); }
  void end() override { DINO_CUDA(cudaEventRecord(end_.get(), stream_)); }
  double elapsed_ms() override {
    DINO_CUDA(cudaEventSynchronize(end_.get()));
    float ms = 0;
    DINO_CUDA(cudaEventElapsedTime(&ms, begin_.get(), end_.get()));
    return static_cast<double>(ms);
  }

 private:
  cudaStream_t stream_;
  TimedEvent begin_, end_;
};

}  // namespace

std::unique_ptr<DeviceClock> make_device_clock(Stream& stream) {
  cuda::use_device(stream.ordinal());
  return std::make_unique<CudaClock>(stream);
}

}  // namespace dino::bench
