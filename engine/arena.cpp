#include "engine/arena.h"

#include "kernels/common/error.h"

#include <cassert>
#include <iterator>

namespace dino {

void Arena::set_range(std::byte* base, std::size_t capacity) {
  base_ = base;
  capacity_ = capacity;
}

std::byte* Arena::allocate(std::size_t size_bytes) {
  const std::size_t size = (size_bytes > 0 ? size_bytes + kAlignment - 1 : kAlignment) / kAlignment * kAlignment;
  auto block = free_blocks_.begin();
  while (block != free_blocks_.end() && block->second < size) ++block;

  std::size_t offset;
  if (block != free_blocks_.end()) {
    offset = block->first;
    const std::size_t rest = block->second - size;
    free_blocks_.erase(block);
    if (rest > 0) free_blocks_.emplace(offset + size, rest);
  } else {
    // A free block that touches the end is extended, not left behind.
    offset = end_;
    const bool extends_last =
        !free_blocks_.empty() && free_blocks_.rbegin()->first + free_blocks_.rbegin()->second == end_;
    if (extends_last) offset = free_blocks_.rbegin()->first;
    require(
        size <= capacity_ - offset, "arena",
        "out of memory: {} MiB asked for, {} MiB in use, {} MiB reserved; try a smaller batch with more accumulation",
        size >> 20, used_ >> 20, capacity_ >> 20);
    commit(offset + size);
    if (extends_last) free_blocks_.erase(std::prev(free_blocks_.end()));
    end_ = offset + size;
  }
  used_blocks_.emplace(offset, size);
  used_ += size;
  peak_ = used_ > peak_ ? used_ : peak_;
  return base_ + offset;
}

void Arena::free(std::byte* block) noexcept {
  const auto used = used_blocks_.find(static_cast<std::size_t>(block - base_));
  assert(used != used_blocks_.end());
  std::size_t offset = used->first;
  std::size_t size = used->second;
  used_blocks_.erase(used);
  used_ -= size;

  auto next = free_blocks_.lower_bound(offset);
  if (next != free_blocks_.end() && next->first == offset + size) {
    size += next->second;
    next = free_blocks_.erase(next);
  }
  if (next != free_blocks_.begin()) {
    const auto previous = std::prev(next);
    if (previous->first + previous->second == offset) {
      previous->second += size;
      return;
    }
  }
  free_blocks_.emplace(offset, size);
}

std::uint64_t Arena::state() const {
  std::uint64_t state = 0;
  for (const auto& [offset, size] : used_blocks_) {
    for (const std::size_t number : {offset, size}) {
      state = (state ^ number) * 0x9E3779B97F4A7C15U;
      state ^= state >> 32;
    }
  }
  return state;
}

}  // namespace dino
