#pragma once

#include "kernels/common/cuda/cublas_lt.h"
#include "kernels/common/stream.h"

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

struct CUstream_st;
struct CUevent_st;

namespace dino::cuda {

/// A cudaStream_t that it owns; does not wait for the default stream.
class StreamHandle {
 public:
  explicit StreamHandle(int ordinal);
  ~StreamHandle();
  StreamHandle(StreamHandle&& other) noexcept;
  StreamHandle& operator=(StreamHandle&&) = delete;
  CUstream_st* get() const { return handle_; }

 private:
  int ordinal_;
  CUstream_st* handle_ = nullptr;
};

/// A cudaEvent_t that it owns, without a time.
class Event {
 public:
  explicit Event(int ordinal);
  ~Event();
  Event(Event&& other) noexcept;
  Event& operator=(Event&& other) noexcept;
  void record(CUstream_st* stream);
  /// What is put on the stream from now on waits for what was on the other one when it was recorded.
  void hold(CUstream_st* stream) const;
  /// Whether what was on the stream when it was recorded has finished; also when it was never recorded.
  bool ready() const;
  /// Waits for that.
  void wait() const;

 private:
  int ordinal_;
  CUevent_st* handle_ = nullptr;
};

/// Memory of one device that it owns; an address that is a multiple of 256.
class DeviceBuffer {
 public:
  /// Throws Error, saying how much there was, when memory is short. `purpose` is for the message.
  DeviceBuffer(int ordinal, std::size_t size_bytes, const char* purpose);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  int ordinal_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Page-locked host memory that it owns, from and to which the device copies while the host goes on.
class PinnedBuffer {
 public:
  PinnedBuffer(int ordinal, std::size_t size_bytes);
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& other) noexcept;
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept;
  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  int ordinal_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// A ring of pinned memory on its way to the device: what is copied into it may be forgotten at once. It grows to as
/// much as the host is ahead of the device, so that the pictures of the next step lie ready while this one runs, up to
/// kMostSlots; beyond that the host waits.
///
/// Large copies do not wait for the work before them on the stream: they go to memory of the ring's on the device, on a
/// stream of their own and so beside that work, and in the stream's order from there to their place, which takes a
/// twentieth of the bus's time.
class StagingRing {
 public:
  static constexpr std::size_t kMostSlots = 16;
  static constexpr std::size_t kSlotBytes = std::size_t{16} << 20;
  static constexpr std::size_t kLarge = std::size_t{256} << 10;  // less is over before an event is

  StagingRing(int ordinal, CUstream_st* stream);
  /// The parts come to lie one behind the other.
  void copy_to_device(std::byte* to, std::span<const std::span<const std::byte>> parts);

 private:
  struct Slot {
    PinnedBuffer memory;
    DeviceBuffer landing;
    Event used;  // its copies have arrived at their places
  };
  /// Behind the one in use.
  void add_slot();
  void next_slot();
  /// Sends what has been put into the slot since the last call to `to`, and moves that on.
  void send(std::byte*& to);

  int ordinal_;
  CUstream_st* stream_;
  StreamHandle beside_;
  Event landed_;
  std::vector<Slot> slots_;
  std::size_t most_slots_ = kMostSlots;
  std::size_t slot_ = 0;
  std::size_t sent_ = 0, filled_ = 0;  // bytes of the slot
};

/// Kernels and copies of one NVIDIA GPU, with what kernels need from their device: scratch memory and cuBLASLt.
class CudaStream : public Stream, public CublasLtOwner {
 public:
  /// Throws Error when the device cannot be used.
  explicit CudaStream(int ordinal) : CudaStream(ordinal, StreamHandle(ordinal)) {}
  ~CudaStream() override;

  /// What it grew out of is kept until the stream goes: work that is still to run, and recordings, may use it. It at
  /// least doubles, so that this is less than what is in use.
  void* scratch(std::size_t size_bytes) override;
  void copy_from_host(void* to, const void* host, std::size_t size_bytes) override;
  void gather_from_host(void* to, std::span<const std::span<const std::byte>> parts) override;
  void copy_to_host(void* host, const void* from, std::size_t size_bytes) override;
  void copy(void* to, const void* from, std::size_t size_bytes) override;
  void zero(void* to, std::size_t size_bytes) override;
  void synchronize() override;
  std::unique_ptr<Stream> make_side_stream() override;
  void wait_for(Stream& other) override;
  std::unique_ptr<HostCopy> make_host_copy(std::size_t size_bytes) override;
  /// Relaxed capture: the first call of a kernel may load its code, and scratch memory may grow, while it records.
  bool begin_recording() override;
  std::unique_ptr<StreamGraph> end_recording() override;
  void cancel_recording() noexcept override;
  /// Made at the first call: a program that multiplies nothing does not load half a gigabyte of library.
  CublasLt& cublas_lt() override;

 private:
  CudaStream(int ordinal, StreamHandle handle);
  void require_not_recording(const char* what) const;

  StreamHandle stream_;
  Event waited_for_;
  std::unique_ptr<StagingRing> staging_;  // made at the first copy: side streams have none
  std::vector<DeviceBuffer> scratch_;     // the last one is in use
  std::unique_ptr<DeviceBuffer> workspace_;
  std::unique_ptr<CublasLt> cublas_lt_;
  bool recording_ = false;
};

}  // namespace dino::cuda
