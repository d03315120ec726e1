#include "tests/simt/host_device.h"

#include "kernels/common/error.h"
#include "tests/simt/reach.h"

#include <sanitizer/asan_interface.h>
#include <sys/mman.h>

#include <cstring>
#include <utility>

namespace dino::simt {

/// Opens the memory for as long as it lives.
class HostDevice::Opening {
 public:
  explicit Opening(HostDevice& device) : device_(device) {
    if (device_.openings_++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  ~Opening() {
    if (--device_.openings_ == 0) protect(PROT_NONE);
  }
  Opening(const Opening&) = delete;
  Opening& operator=(const Opening&) = delete;

 private:
  void protect(int access) const {
    if (mprotect(device_.memory_, kMemoryBytes, access) != 0) std::abort();
  }
  HostDevice& device_;
};

HostDevice::HostDevice() {
  void* memory = mmap(nullptr, kMemoryBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  require(memory != MAP_FAILED, "simt", "no addresses for the device's memory");
  memory_ = static_cast<std::byte*>(memory);
  ASAN_POISON_MEMORY_REGION(memory_, kMemoryBytes);
  add_reach(memory_, kMemoryBytes);
}

HostDevice::~HostDevice() {
  remove_reach(memory_);
  ASAN_UNPOISON_MEMORY_REGION(memory_, kMemoryBytes);
  munmap(memory_, kMemoryBytes);
}

void HostDevice::submit(Work work) {
  if (recording_) {
    recorded_.push_back(std::move(work));
    return;
  }
  const Opening opening(*this);
  work();
}

void HostDevice::begin_recording() {
  require(!recording_, "simt", "a recording is going on already");
  recording_ = true;
}

std::vector<HostDevice::Work> HostDevice::end_recording() {
  recording_ = false;
  return std::exchange(recorded_, {});
}

HostArena::HostArena(std::shared_ptr<HostDevice> device, std::size_t begin, std::size_t end)
    : device_(std::move(device)) {
  set_range(device_->memory() + begin, end - begin);
}

std::byte* HostArena::allocate(std::size_t size_bytes) {
  std::byte* block = Arena::allocate(size_bytes + kGuardBytes);
  sizes_[block] = size_bytes;
  device_->submit([block, size_bytes] {
    ASAN_UNPOISON_MEMORY_REGION(block, size_bytes);
    if (size_bytes > 0) std::memset(block, 0xff, size_bytes);
  });
  return block;
}

void HostArena::free(std::byte* block) noexcept {
  const auto at = sizes_.find(block);
  device_->submit([block, size = at->second] { ASAN_POISON_MEMORY_REGION(block, size); });
  sizes_.erase(at);
  Arena::free(block);
}

}  // namespace dino::simt
