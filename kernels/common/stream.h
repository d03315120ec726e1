#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <span>
#include <string_view>

namespace dino {

enum class Device : std::uint8_t { cpu, cuda };

/// Kernels and copies that were recorded from a stream and can be put on it again at the price of one launch: a CUDA
/// graph. Addresses and arguments are those of the recording; what is to change from run to run must lie in the
/// device's memory. Must not outlive its stream.
class StreamGraph {
 public:
  StreamGraph() = default;
  virtual ~StreamGraph() = default;
  StreamGraph(const StreamGraph&) = delete;
  StreamGraph& operator=(const StreamGraph&) = delete;

  /// Puts the recorded work on the stream that it was recorded from.
  virtual void replay() = 0;
};

/// Host memory that receives copies of a stream's memory while the host goes on: pinned, with an event, on CUDA. Must
/// not outlive its stream.
class HostCopy {
 public:
  HostCopy() = default;
  virtual ~HostCopy() = default;
  HostCopy(const HostCopy&) = delete;
  HostCopy& operator=(const HostCopy&) = delete;

  /// Puts copies of these parts of the device's memory on the stream, in its order; they come to lie one behind the
  /// other. The copies before must have been waited for.
  virtual void start(std::initializer_list<std::span<const std::byte>> parts) = 0;
  /// Whether wait() would return at once.
  virtual bool ready() = 0;
  /// Waits for the copies only, not for what was put on the stream after them. The bytes are valid until the next
  /// start().
  virtual const std::byte* wait() = 0;
};

struct OperationCost;
class Stream;

/// One operation as it is put on a stream: the name that DINO_OPERATION gives it, and its arguments.
struct Operation {
  std::string_view name;
  const void* args;
  OperationCost (*cost)(const void* args, Stream& stream);  // see cost_of() in operation_cost.h
};

/// Hears of the operations on a stream: to count or to time them.
class OperationObserver {
 public:
  OperationObserver() = default;
  virtual ~OperationObserver() = default;
  OperationObserver(const OperationObserver&) = delete;
  OperationObserver& operator=(const OperationObserver&) = delete;

  /// Comes before an operation. One that a kernel calls on the same stream, for a part of its work, lies between
  /// begin() and end() of the whole.
  virtual void begin(const Operation& operation) = 0;
  /// Comes after an operation has been put on the stream, also when it throws.
  virtual void end() noexcept = 0;
};

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
  /// The same for pieces of host memory, which come to lie one behind the other.
  virtual void gather_from_host(void* to, std::span<const std::span<const std::byte>> parts);
  /// Copies memory of the stream's device to the host, in its order. Returns after the copy.
  virtual void copy_to_host(void* host, const void* from, std::size_t size_bytes) = 0;
  /// Copies within the stream's device, in its order; the ranges do not overlap.
  virtual void copy(void* to, const void* from, std::size_t size_bytes) = 0;
  /// Fills with zero bytes, in the stream's order.
  virtual void zero(void* to, std::size_t size_bytes) = 0;

  /// Lets `observer` hear of the operations from now on; null: none does. It must outlive the stream or be taken away.
  void observe(OperationObserver* observer) { observer_ = observer; }
  OperationObserver* observer() const { return observer_; }
  /// False where operations are only observed, and the addresses of arrays stand for no memory (engine/rehearsal.h).
  bool executes() const { return executes_; }

  /// Waits until all work put on the stream has finished.
  virtual void synchronize() = 0;

  /// A stream of the same device whose work runs beside this one's, or none where there is no such thing. Must not
  /// outlive this one.
  virtual std::unique_ptr<Stream> make_side_stream() { return nullptr; }
  /// What is put on this stream from now on runs after all that has been put on `other`, a stream of the same device.
  /// May be called while either records; the other one is then part of the recording, and must be waited for before the
  /// recording ends.
  virtual void wait_for(Stream& /*other*/) {}

  /// Memory for a HostCopy of at most size_bytes. The one that every stream has waits in start().
  virtual std::unique_ptr<HostCopy> make_host_copy(std::size_t size_bytes);

  /// Begins to record: what is put on the stream until end_recording() is kept for replays and does not run. Returns
  /// false, and the stream goes on as before, where the device records nothing: the CPU.
  /// Only kernels, copy(), zero() and scratch() may be called while it records; calls that the host waits for throw
  /// Error. Scratch memory that a recording was given stays valid, and keeps its address, as long as the stream lives,
  /// also when scratch() has grown since.
  virtual bool begin_recording() { return false; }
  /// Ends the recording that begin_recording() began.
  virtual std::unique_ptr<StreamGraph> end_recording() { return nullptr; }
  /// Gives up a recording in which something has failed. Does nothing where none was begun.
  virtual void cancel_recording() noexcept {}

 protected:
  Stream(Device device, int ordinal, void* handle, bool executes = true)
      : device_(device), executes_(executes), ordinal_(ordinal), handle_(handle) {}

 private:
  Device device_;
  bool executes_;
  int ordinal_;
  void* handle_;
  OperationObserver* observer_ = nullptr;
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
