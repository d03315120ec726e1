#pragma once

#include "engine/arena.h"

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <vector>

namespace dino::simt {

/// A device that the host plays: memory that only work put on its stream can touch, and recordings. What else reads or
/// writes there faults, as with a GPU's memory.
class HostDevice {
 public:
  using Work = std::function<void()>;

  HostDevice();
  ~HostDevice();
  HostDevice(const HostDevice&) = delete;
  HostDevice& operator=(const HostDevice&) = delete;

  /// Runs `work` with the memory open to it, or keeps it for the recording that is going on.
  void submit(Work work);

  bool recording() const { return recording_; }
  void begin_recording();
  /// What was kept, in its order.
  std::vector<Work> end_recording();

  std::byte* memory() const { return memory_; }
  static constexpr std::size_t kMemoryBytes = std::size_t{128} << 20;

 private:
  class Opening;

  std::byte* memory_ = nullptr;
  int openings_ = 0;
  bool recording_ = false;
  std::vector<Work> recorded_;
};

/// Blocks in a part of a HostDevice's memory. New ones are filled with 0xff bytes: NaN, or -1. The address sanitizer
/// watches what lies behind a block, and what has been freed. In a recording both happen when it is replayed.
class HostArena final : public Arena {
 public:
  HostArena(std::shared_ptr<HostDevice> device, std::size_t begin, std::size_t end);

  std::byte* allocate(std::size_t size_bytes) override;
  void free(std::byte* block) noexcept override;

 private:
  static constexpr std::size_t kGuardBytes = 64;
  void commit(std::size_t) override {}

  std::shared_ptr<HostDevice> device_;
  std::map<std::byte*, std::size_t> sizes_;  // of the blocks in use
};

}  // namespace dino::simt
