#include "tests/support/test_memory.h"

#include <cstdlib>
#include <new>
#include <utility>

namespace dino::test {

void* allocate_test_memory(std::size_t size_bytes) {
  constexpr std::size_t kAlignment = 64;
  const std::size_t padded = (size_bytes / kAlignment + 1) * kAlignment;
  void* memory = allocate_for_device != nullptr ? allocate_for_device(padded) : std::aligned_alloc(kAlignment, padded);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void free_test_memory(void* memory) noexcept {
  free_for_device != nullptr ? free_for_device(memory) : std::free(memory);
}

TestMemory::TestMemory(std::size_t size_bytes)
    : data_(static_cast<std::byte*>(allocate_test_memory(size_bytes))), size_(size_bytes) {}

TestMemory::~TestMemory() { free_test_memory(data_); }

TestMemory::TestMemory(TestMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, std::size_t{0})) {}

}  // namespace dino::test
