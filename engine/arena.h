#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string_view>

namespace dino {

/// Memory for the tensors of one device. Blocks are 64-byte aligned and come from one range of addresses that never
/// moves: the lowest free block that is large enough is taken, so the same sequence of allocations and frees yields
/// the same addresses in every training step, and a steady state asks the system for nothing.
/// Not thread-safe: one thread drives a device.
class Arena {
 public:
  static constexpr std::size_t kAlignment = 64;

  virtual ~Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Uninitialised memory of at least size_bytes. Throws Error, naming the size and what is in use, when memory is
  /// short.
  virtual std::byte* allocate(std::size_t size_bytes);
  virtual void free(std::byte* block) noexcept;

  std::size_t used_bytes() const { return used_; }
  /// A number for the set of blocks in use: the same while, and whenever, the same ones are.
  std::uint64_t state() const;
  /// The most that was ever in use at once.
  std::size_t peak_bytes() const { return peak_; }
  /// Addresses that were handed out at some time, as far as the highest: the peak, and the gaps between blocks.
  std::size_t reach_bytes() const { return end_; }
  /// What reach_bytes() cannot exceed.
  std::size_t capacity_bytes() const { return capacity_; }

 protected:
  Arena() = default;
  void set_range(std::byte* base, std::size_t capacity);

 private:
  /// Makes [base, base + end) usable. Called with growing `end`; throws Error when that much is not to be had.
  virtual void commit(std::size_t end) = 0;

  std::byte* base_ = nullptr;
  std::size_t capacity_ = 0;
  std::size_t end_ = 0;  // offsets below were handed out at some time
  std::size_t used_ = 0;
  std::size_t peak_ = 0;
  std::map<std::size_t, std::size_t> free_blocks_;  // offset → size, never adjacent
  std::map<std::size_t, std::size_t> used_blocks_;  // offset → size
};

}  // namespace dino
