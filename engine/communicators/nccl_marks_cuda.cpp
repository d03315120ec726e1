#include "engine/communicators/connect.h"
#include "engine/communicators/nccl.h"
#include "kernels/common/cuda/check.h"
#include "kernels/common/cuda/cuda_stream.h"

#include <atomic>
#include <cstring>
#include <numeric>

namespace dino {
namespace {

/// A copy of a number behind each collective, from the device to memory that the host reads: a recording can hold that.
class CudaMarks final : public ProgressMarks {
 public:
  explicit CudaMarks(Stream& stream)
      : numbers_(stream.ordinal(), kMost * sizeof(int), "marks of collectives"), last_(stream.ordinal(), sizeof(int)) {
    std::vector<int> numbers(kMost);
    std::iota(numbers.begin(), numbers.end(), 0);
    stream.copy_from_host(numbers_.data(), numbers.data(), numbers_.size());
    stream.synchronize();
    const int none = -1;
    std::memcpy(last_.data(), &none, sizeof none);
  }

  void put(int mark, Stream& stream) override {
    DINO_CUDA(cudaMemcpyAsync(last_.data(), numbers_.data() + static_cast<std::size_t>(mark) * sizeof(int), sizeof(int),
                              cudaMemcpyDeviceToHost, static_cast<cudaStream_t>(stream.handle())));
  }
  int last() const override {
    return std::atomic_ref<int>(*reinterpret_cast<int*>(last_.data())).load(std::memory_order_relaxed);
  }

 private:
  cuda::DeviceBuffer numbers_;
  cuda::PinnedBuffer last_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<HostCommunicator> host, Stream& stream,
                                                     double timeout_s) {
  cuda::use_device(stream.ordinal());
  auto marks = std::make_unique<CudaMarks>(stream);
  return std::make_unique<NcclCommunicator>(nccl_library(), std::move(host), std::move(marks),
                                            NcclOptions{.timeout_s = timeout_s});
}

}  // namespace dino
