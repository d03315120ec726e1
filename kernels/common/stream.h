#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

namespace dino {

enum class Device : std::uint8_t { cpu, cuda };

/// The order in which kernels and copies run on one device, and the kernels' scratch memory. On the CPU every kernel
/// has finished when its call returns; on CUDA `handle()` is the cudaStream_t that it was put on. Not shared between
/// threads.
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

  /// Copies host memory to the stream's device, in its order. Returns when the host memory may be written again.
  virtual void copy_from_host(void* to, const void* host, std::size_t size_bytes) = 0;
  /// Copies memory of the stream's device to the host, in its order. Returns after the copy.
  virtual void copy_to_host(void* host, const void* from, std::size_t size_bytes) = 0;
  /// Copies within the stream's device, in its order; the ranges do not overlap.
  virtual void copy(void* to, const void* from, std::size_t size_bytes) = 0;
  /// Fills with zero bytes, in the stream's order.
  virtual void zero(void* to, std::size_t size_bytes) = 0;

  /// Waits until all work put on the stream has finished.
  virtual void synchronize() = 0;

 protected:
  Stream(Device device, int ordinal, void* handle) : device_(device), ordinal_(ordinal), handle_(handle) {}

 private:
  Device device_;
  int ordinal_;
  void* handle_;
};

/// A stream whose device shares the host's memory and has finished when a call returns.
class HostMemoryStream : public Stream {
 public:
  void copy_from_host(void* to, const void* host, std::size_t size_bytes) final { copy(to, host, size_bytes); }
  void copy_to_host(void* host, const void* from, std::size_t size_bytes) final { copy(host, from, size_bytes); }
  void copy(void* to, const void* from, std::size_t size_bytes) final {
    if (size_bytes > 0) std::memcpy(to, from, size_bytes);
  }
  void zero(void* to, std::size_t size_bytes) final {
    if (size_bytes > 0) std::memset(to, 0, size_bytes);
  }
  void synchronize() final {}

 protected:
  using Stream::Stream;
};

/// A stream for the CPU. Threads: OpenMP's default (OMP_NUM_THREADS).
std::unique_ptr<Stream> make_cpu_stream();

}  // namespace dino
