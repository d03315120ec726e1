#pragma once

#include "engine/context.h"
#include "kernels/common/stream.h"
#include "tests/simt/device.h"
#include "tests/simt/host_device.h"

#include <memory>

namespace dino::simt {

/// A stream for which operations choose their CUDA kernels; these run on the host, in the caller's thread, at once,
/// unless a recording keeps them.
class HostStream final : public Stream {
 public:
  explicit HostStream(std::shared_ptr<HostDevice> device);

  HostDevice& host_device() { return *device_; }

  /// Of the exact size, filled with 0xff bytes each time.
  void* scratch(std::size_t size_bytes) override;
  void copy_from_host(void* to, const void* host, std::size_t size_bytes) override;
  void copy_to_host(void* host, const void* from, std::size_t size_bytes) override;
  void copy(void* to, const void* from, std::size_t size_bytes) override;
  void zero(void* to, std::size_t size_bytes) override;
  void synchronize() override;
  /// Late, as a GPU's: its copies are only seen to be there after some questions.
  std::unique_ptr<HostCopy> make_host_copy(std::size_t size_bytes) override;
  bool begin_recording() override;
  std::unique_ptr<StreamGraph> end_recording() override;
  void cancel_recording() noexcept override;

 private:
  void require_not_recording(const char* what) const;

  std::shared_ptr<HostDevice> device_;
  std::shared_ptr<Arena> scratch_arena_;
  std::shared_ptr<Storage> scratch_;
};

/// For kernels alone: their arrays are in the host's own memory.
std::unique_ptr<Stream> make_host_stream();
/// A Context on Device::cuda whose tensors are in a HostDevice's memory. Products of matrices are the CPU's.
std::unique_ptr<Context> make_host_context();

}  // namespace dino::simt
