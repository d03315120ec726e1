#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace dino {

enum class Device : std::uint8_t { cpu, cuda };

/// The order in which kernels run on one device, and their scratch memory. On the CPU every kernel has finished
/// when its call returns; on CUDA `handle()` is the cudaStream_t that it was put on. Not shared between threads.
class Stream {
 public:
  virtual ~Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  Device device() const { return device_; }
  int ordinal() const { return ordinal_; }
  /// cudaStream_t on CUDA, null on the CPU.
  void* handle() const { return handle_; }

  /// Uninitialised memory on the stream's device, 64-byte aligned, valid until the next call of scratch() on this
  /// stream. It only grows, so a steady sequence of kernels allocates nothing.
  virtual void* scratch(std::size_t size_bytes) = 0;

  /// Waits until all work put on the stream has finished.
  virtual void synchronize() = 0;

 protected:
  Stream(Device device, int ordinal, void* handle) : device_(device), ordinal_(ordinal), handle_(handle) {}

 private:
  Device device_;
  int ordinal_;
  void* handle_;
};

/// A stream for the CPU. Threads: OpenMP's default (OMP_NUM_THREADS).
std::unique_ptr<Stream> make_cpu_stream();

}  // namespace dino
