#include "tests/cudart/fake_cudart.h"

#include "kernels/common/error.h"
#include "tests/simt/reach.h"

#include <sanitizer/asan_interface.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace dino::test {
namespace {

constexpr const char* kWhere = "fake CUDA";
constexpr std::size_t kMemoryBytes = std::size_t{1} << 30;  // of all devices
constexpr std::size_t kGapBytes = 512;                      // between allocations, where nothing may be touched

using Work = std::function<void()>;

/// Work of a graph, after the nodes that it waits for.
struct Node {
  Work work;
  std::set<std::size_t> after;
};

/// A capture that is going on.
struct Capture {
  cudaStream_t origin = nullptr;
  std::vector<Node> nodes;
  std::set<cudaStream_t> streams;
  bool invalid = false;
};

/// How far an event has come. Work that waits for it may outlive the event.
struct EventState {
  std::uint64_t recorded = 0, reached = 0;
  int questions = 0;              // since the last record
  cudaStream_t stream = nullptr;  // of the last record
  std::weak_ptr<Capture> capture;
  std::set<std::size_t> nodes;  // of the capture, that it stands for
};

/// One piece of a stream's work: it may have to wait for an event first.
struct Piece {
  Work work;
  std::shared_ptr<EventState> waits_for;
  std::uint64_t record = 0;
};

}  // namespace
}  // namespace dino::test

// CUDA's opaque types, as this one has them.
struct CUstream_st {
  int device = 0;
  std::deque<dino::test::Piece> pieces;
  std::shared_ptr<dino::test::Capture> capture;
  std::set<std::size_t> last;  // nodes of the capture that the next one comes after
};
struct CUevent_st {
  int device = 0;
  std::shared_ptr<dino::test::EventState> state = std::make_shared<dino::test::EventState>();
};
struct CUgraph_st {
  std::vector<dino::test::Node> nodes;
};
struct CUgraphExec_st {
  std::shared_ptr<const std::vector<dino::test::Node>> nodes;
};

namespace dino::test {
namespace {

/// The memory of the devices, open while a stream's work runs.
class Memory {
 public:
  Memory() {
    void* memory = mmap(nullptr, kMemoryBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    base_ = static_cast<std::byte*>(memory);
    ASAN_POISON_MEMORY_REGION(base_, kMemoryBytes);
    simt::add_reach(base_, kMemoryBytes);
  }

  void* allocate(std::size_t size_bytes) {
    std::size_t at = 0;
    for (const auto& [begin, size] : blocks_) {
      if (begin - at >= padded(size_bytes)) break;
      at = begin + padded(size);
    }
    if (size_bytes > kMemoryBytes || kMemoryBytes - at < padded(size_bytes)) return nullptr;
    blocks_[at] = size_bytes;
    ASAN_UNPOISON_MEMORY_REGION(base_ + at, size_bytes);
    return base_ + at;
  }
  bool free(void* memory) {
    const auto block = blocks_.find(static_cast<std::size_t>(static_cast<std::byte*>(memory) - base_));
    if (block == blocks_.end()) return false;
    ASAN_POISON_MEMORY_REGION(memory, block->second);
    blocks_.erase(block);
    return true;
  }
  std::size_t free_bytes() const {
    std::size_t used = 0;
    for (const auto& [begin, size] : blocks_) used += padded(size);
    return kMemoryBytes - used;
  }
  bool contains(const void* address) const {
    return address >= base_ && static_cast<const std::byte*>(address) < base_ + kMemoryBytes;
  }
  /// Whether a range lies in one allocation.
  bool holds(const void* address, std::size_t size_bytes) const {
    if (!contains(address)) return false;
    const auto at = static_cast<std::size_t>(static_cast<const std::byte*>(address) - base_);
    auto block = blocks_.upper_bound(at);
    if (block == blocks_.begin()) return false;
    --block;
    return at + size_bytes <= block->first + block->second;
  }

  void open() {
    if (openings_++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  void close() {
    if (--openings_ == 0) protect(PROT_NONE);
  }

 private:
  static std::size_t padded(std::size_t size_bytes) { return (size_bytes + 255) / 256 * 256 + kGapBytes; }
  void protect(int access) const {
    if (mprotect(base_, kMemoryBytes, access) != 0) std::abort();
  }

  std::byte* base_ = nullptr;
  std::map<std::size_t, std::size_t> blocks_;  // offset → size
  int openings_ = 0;
};

struct Runtime {
  FakeCuda settings;
  Memory memory;
  std::map<const std::byte*, std::size_t> pinned;
  std::vector<cudaStream_t> streams;
  std::mt19937 random{1};
  int device = 0;
  cudaError_t last_error = cudaSuccess;
};

Runtime& runtime() {
  static Runtime the_runtime;
  return the_runtime;
}

class Opening {
 public:
  Opening() { runtime().memory.open(); }
  ~Opening() { runtime().memory.close(); }
  Opening(const Opening&) = delete;
  Opening& operator=(const Opening&) = delete;
};

cudaError_t status(cudaError_t error) {
  if (error != cudaSuccess) runtime().last_error = error;
  return error;
}

bool can_go_on(const CUstream_st& stream) {
  if (stream.pieces.empty()) return false;
  const Piece& next = stream.pieces.front();
  return next.waits_for == nullptr || next.waits_for->reached >= next.record;
}

void drop_all_work() {
  for (const cudaStream_t stream : runtime().streams) stream->pieces.clear();
}

/// Runs the next piece of a stream's work. What it throws ends all work, as an error does on a device.
void go_on(CUstream_st& stream) {
  const Piece piece = std::move(stream.pieces.front());
  stream.pieces.pop_front();
  if (!piece.work) return;
  const Opening opening;
  try {
    piece.work();
  } catch (...) {
    drop_all_work();
    throw;
  }
}

std::vector<cudaStream_t> ready_streams() {
  std::vector<cudaStream_t> ready;
  for (const cudaStream_t stream : runtime().streams) {
    if (can_go_on(*stream)) ready.push_back(stream);
  }
  return ready;
}

/// Lets the device run until `done`. Of a late one, `wanted` goes first, then what it waits for.
template <typename Done>
void run_until(cudaStream_t wanted, const Done& done) {
  const Opening opening;
  while (!done()) {
    cudaStream_t next = wanted;
    if (runtime().settings.speed == DeviceSpeed::late && wanted != nullptr) {
      for (std::size_t i = 0; i < runtime().streams.size() && !can_go_on(*next); ++i) {
        if (next->pieces.empty() || next->pieces.front().waits_for == nullptr) break;
        next = next->pieces.front().waits_for->stream;
      }
      require(can_go_on(*next), kWhere, "a stream waits for what never comes");
    } else {
      const std::vector<cudaStream_t> ready = ready_streams();
      require(!ready.empty(), kWhere, "streams wait for each other without end");
      next = ready[runtime().random() % ready.size()];
    }
    go_on(*next);
  }
}

void finish(cudaStream_t stream) {
  run_until(stream, [stream] { return stream->pieces.empty(); });
}

void finish_all() {
  for (const cudaStream_t stream : runtime().streams) finish(stream);
}

/// What the device does while the host goes ahead.
void let_run() {
  if (runtime().settings.speed != DeviceSpeed::shuffled) return;
  for (std::size_t steps = runtime().random() % 4; steps > 0; --steps) {
    const std::vector<cudaStream_t> ready = ready_streams();
    if (ready.empty()) return;
    go_on(*ready[runtime().random() % ready.size()]);
  }
}

bool lives(cudaStream_t stream) {
  const auto& streams = runtime().streams;
  return std::find(streams.begin(), streams.end(), stream) != streams.end();
}

bool captures(cudaStream_t stream) { return stream->capture != nullptr; }

/// A call that a capture does not allow ends it.
cudaError_t refuse_in_capture(const std::shared_ptr<Capture>& capture) {
  capture->invalid = true;
  return status(cudaErrorStreamCaptureUnsupported);
}

/// Puts work on a stream, or into the capture that it is part of.
cudaError_t put(cudaStream_t stream, Work work) {
  if (!lives(stream)) return status(cudaErrorInvalidResourceHandle);
  if (captures(stream)) {
    Capture& capture = *stream->capture;
    if (capture.invalid) return status(cudaErrorStreamCaptureInvalidated);
    capture.nodes.push_back({std::move(work), stream->last});
    stream->last = {capture.nodes.size() - 1};
    return cudaSuccess;
  }
  stream->pieces.push_back({std::move(work), nullptr, 0});
  let_run();
  return cudaSuccess;
}

bool is_pinned(const void* address, std::size_t size_bytes) {
  const auto& pinned = runtime().pinned;
  auto block = pinned.upper_bound(static_cast<const std::byte*>(address));
  if (block == pinned.begin()) return false;
  --block;
  return static_cast<const std::byte*>(address) + size_bytes <= block->first + block->second;
}

/// Runs the nodes of a graph in an order that it allows.
void run_nodes(const std::vector<Node>& nodes) {
  if (runtime().settings.speed == DeviceSpeed::late) {
    for (const Node& node : nodes) node.work();
    return;
  }
  std::vector<std::size_t> missing(nodes.size());
  std::vector<std::vector<std::size_t>> before(nodes.size());
  std::vector<std::size_t> ready;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    missing[i] = nodes[i].after.size();
    for (const std::size_t earlier : nodes[i].after) before[earlier].push_back(i);
    if (missing[i] == 0) ready.push_back(i);
  }
  std::size_t done = 0;
  for (; !ready.empty(); ++done) {
    std::swap(ready[runtime().random() % ready.size()], ready.back());
    const std::size_t next = ready.back();
    ready.pop_back();
    nodes[next].work();
    for (const std::size_t later : before[next]) {
      if (--missing[later] == 0) ready.push_back(later);
    }
  }
  require(done == nodes.size(), kWhere, "a graph has a circle");
}

/// All nodes that come before these, and they themselves.
std::set<std::size_t> with_all_before(const Capture& capture, const std::set<std::size_t>& nodes) {
  std::set<std::size_t> all = nodes;
  // Nodes come behind those that they wait for.
  for (std::size_t i = capture.nodes.size(); i-- > 0;) {
    if (all.contains(i)) all.insert(capture.nodes[i].after.begin(), capture.nodes[i].after.end());
  }
  return all;
}

}  // namespace

FakeCuda& fake_cuda() { return runtime().settings; }

void put_on_stream(cudaStream_t stream, Work work) {
  require(runtime().last_error == cudaSuccess, kWhere, "a launch finds an error that nobody has taken: {}",
          cudaGetErrorName(runtime().last_error));
  require(!lives(stream) || stream->device == runtime().device, kWhere,
          "a launch on device {} for a stream of device {}", runtime().device, stream->device);
  const cudaError_t error = put(stream, std::move(work));
  require(error == cudaSuccess, kWhere, "a launch is refused: {}", cudaGetErrorName(error));
}

void reset_fake_cuda() {
  drop_all_work();
  for (const cudaStream_t stream : runtime().streams) stream->capture.reset();
  runtime().last_error = cudaSuccess;
  runtime().device = 0;
}

}  // namespace dino::test

using namespace dino::test;  // NOLINT: what follows are C functions of that runtime

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = fake_cuda().count_status == cudaSuccess ? fake_cuda().devices : 0;
  return status(fake_cuda().count_status);
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = fake_cuda().driver_version;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= fake_cuda().devices) return status(cudaErrorInvalidDevice);
  *properties = {};
  std::strcpy(properties->name, "a device of the host");
  properties->major = fake_cuda().major;
  properties->totalGlobalMem = kMemoryBytes;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = runtime().device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= fake_cuda().devices) return status(cudaErrorInvalidDevice);
  runtime().device = device;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(runtime().last_error, cudaSuccess); }
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureUnjoined: return "cudaErrorStreamCaptureUnjoined";
    case cudaErrorStreamCaptureIsolation: return "cudaErrorStreamCaptureIsolation";
    case cudaErrorCapturedEvent: return "cudaErrorCapturedEvent";
    default: return "another error";
  }
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes) {
  *free_bytes = runtime().memory.free_bytes();
  *total_bytes = kMemoryBytes;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** memory, std::size_t size_bytes) {
  *memory = size_bytes == 0 ? nullptr : runtime().memory.allocate(size_bytes);
  return status(*memory == nullptr && size_bytes > 0 ? cudaErrorMemoryAllocation : cudaSuccess);
}
cudaError_t cudaFree(void* memory) {
  finish_all();
  return status(memory == nullptr || runtime().memory.free(memory) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaHostAlloc(void** memory, std::size_t size_bytes, unsigned) {
  *memory = nullptr;
  if (size_bytes == 0) return cudaSuccess;
  if (posix_memalign(memory, 4096, size_bytes) != 0) return status(cudaErrorMemoryAllocation);
  runtime().pinned[static_cast<std::byte*>(*memory)] = size_bytes;
  fake_cuda().pinned_bytes += static_cast<std::int64_t>(size_bytes);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* memory) {
  finish_all();
  const auto at = runtime().pinned.find(static_cast<std::byte*>(memory));
  if (at == runtime().pinned.end()) return status(memory == nullptr ? cudaSuccess : cudaErrorInvalidValue);
  fake_cuda().pinned_bytes -= static_cast<std::int64_t>(at->second);
  runtime().pinned.erase(at);
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t size_bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (!lives(stream)) return status(cudaErrorInvalidResourceHandle);
  const Memory& memory = runtime().memory;
  const bool to_device = memory.holds(to, size_bytes), from_device = memory.holds(from, size_bytes);
  if ((memory.contains(to) && !to_device) || (memory.contains(from) && !from_device)) {
    dino::fail(kWhere, "a copy of {} bytes goes beyond an allocation", size_bytes);
  }
  const bool kind_is_right = kind == cudaMemcpyHostToDevice     ? to_device && !from_device
                             : kind == cudaMemcpyDeviceToHost   ? !to_device && from_device
                             : kind == cudaMemcpyDeviceToDevice ? to_device && from_device
                                                                : false;
  if (!kind_is_right) return status(cudaErrorInvalidValue);
  const bool pageable = !(to_device || is_pinned(to, size_bytes)) || !(from_device || is_pinned(from, size_bytes));
  if (pageable && captures(stream)) return refuse_in_capture(stream->capture);
  // From memory that is not pinned the host waits for what came before.
  dino::require(!pageable || kind == cudaMemcpyDeviceToHost, kWhere, "a copy to the device is not from pinned memory");
  const cudaError_t error = put(stream, [=] {
    std::memcpy(to, from, size_bytes);
    if (kind == cudaMemcpyHostToDevice) fake_cuda().arrived_bytes += static_cast<std::int64_t>(size_bytes);
  });
  if (error == cudaSuccess && pageable) finish(stream);
  return error;
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t size_bytes, cudaStream_t stream) {
  if (!runtime().memory.holds(to, size_bytes)) dino::fail(kWhere, "{} bytes to fill are no allocation", size_bytes);
  return put(stream, [=] { std::memset(to, value, size_bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  (*stream)->device = runtime().device;
  runtime().streams.push_back(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (!lives(stream)) return status(cudaErrorInvalidResourceHandle);
  finish(stream);
  if (captures(stream)) stream->capture->invalid = true;
  std::erase(runtime().streams, stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (!lives(stream)) return status(cudaErrorInvalidResourceHandle);
  if (captures(stream)) return refuse_in_capture(stream->capture);
  ++fake_cuda().waits;
  finish(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (!lives(stream)) return status(cudaErrorInvalidResourceHandle);
  EventState& state = *event->state;
  const std::shared_ptr<Capture> capture = state.capture.lock();
  if (captures(stream)) {
    if (stream->capture->invalid) return status(cudaErrorStreamCaptureInvalidated);
    // What a capture waits for must be part of it.
    if (capture != stream->capture) {
      stream->capture->invalid = true;
      return status(cudaErrorStreamCaptureIsolation);
    }
    stream->last.insert(state.nodes.begin(), state.nodes.end());
    return cudaSuccess;
  }
  if (capture) {
    stream->capture = capture;
    stream->last = state.nodes;
    capture->streams.insert(stream);
    return cudaSuccess;
  }
  stream->pieces.push_back({{}, event->state, state.recorded});
  let_run();
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  (*event)->device = runtime().device;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (!lives(stream) || stream->device != event->device) return status(cudaErrorInvalidResourceHandle);
  EventState& state = *event->state;
  if (captures(stream)) {
    if (stream->capture->invalid) return status(cudaErrorStreamCaptureInvalidated);
    state.capture = stream->capture;
    state.nodes = stream->last;
    return cudaSuccess;
  }
  state.capture.reset();
  state.stream = stream;
  state.questions = 0;
  const std::uint64_t record = ++state.recorded;
  return put(stream, [shared = event->state, record] { shared->reached = std::max(shared->reached, record); });
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  EventState& state = *event->state;
  if (!state.capture.expired()) return status(cudaErrorCapturedEvent);
  // Only who asks again and again comes to see it.
  constexpr int kPatience = 2;
  if (state.reached < state.recorded && ++state.questions > kPatience) {
    const std::size_t left = state.stream->pieces.size();
    run_until(state.stream, [&] { return state.stream->pieces.size() < left; });
  }
  return status(state.reached < state.recorded ? cudaErrorNotReady : cudaSuccess);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  EventState& state = *event->state;
  if (!state.capture.expired()) return status(cudaErrorCapturedEvent);
  if (state.reached == state.recorded) return cudaSuccess;
  ++fake_cuda().waits;
  run_until(state.stream, [&] { return state.reached == state.recorded; });
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* capture) {
  *capture = !captures(stream)          ? cudaStreamCaptureStatusNone
             : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                        : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (!lives(stream)) return status(cudaErrorInvalidResourceHandle);
  dino::require(mode == cudaStreamCaptureModeRelaxed, kWhere,
                "the first call of a kernel may not be part of a capture");
  if (captures(stream)) return status(cudaErrorIllegalState);
  stream->capture = std::make_shared<Capture>();
  stream->capture->origin = stream;
  stream->capture->streams = {stream};
  stream->last.clear();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (!lives(stream) || !captures(stream)) return status(cudaErrorIllegalState);
  const std::shared_ptr<Capture> capture = stream->capture;
  if (capture->origin != stream) return status(cudaErrorStreamCaptureUnmatched);
  const std::set<std::size_t> joined = with_all_before(*capture, stream->last);
  for (const cudaStream_t member : capture->streams) {
    if (lives(member)) member->capture.reset();
  }
  if (capture->invalid) return status(cudaErrorStreamCaptureInvalidated);
  if (joined.size() != capture->nodes.size()) return status(cudaErrorStreamCaptureUnjoined);
  *graph = new CUgraph_st{std::move(capture->nodes)};
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{std::make_shared<const std::vector<Node>>(graph->nodes)};
  ++fake_cuda().graphs;
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t stream) {
  if (!lives(stream)) return status(cudaErrorInvalidResourceHandle);
  return captures(stream) ? refuse_in_capture(stream->capture) : cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (!lives(stream)) return status(cudaErrorInvalidResourceHandle);
  dino::require(!captures(stream), kWhere, "graphs within graphs are not played");
  return put(stream, [nodes = executable->nodes] { run_nodes(*nodes); });
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  --fake_cuda().graphs;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

}  // extern "C"
