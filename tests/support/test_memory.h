#pragma once

#include <cstddef>
#include <vector>

namespace dino::test {

// Where kernels run on a GPU, the tests' arrays must lie in memory that both sides reach: a program that is linked with
// tests/device defines these two. Memory 64-byte aligned.
[[gnu::weak]] void* allocate_for_device(std::size_t size_bytes);
[[gnu::weak]] void free_for_device(void* memory) noexcept;

void* allocate_test_memory(std::size_t size_bytes);
void free_test_memory(void* memory) noexcept;

/// Memory for a test's arrays that it owns, uninitialised, 64-byte aligned, on the host and within reach of every
/// device that the program runs kernels on.
class TestMemory {
 public:
  explicit TestMemory(std::size_t size_bytes);
  ~TestMemory();
  TestMemory(TestMemory&& other) noexcept;
  TestMemory& operator=(TestMemory&&) = delete;
  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// For tables that kernels read: a vector in such memory.
template <typename T>
struct TestAllocator {
  using value_type = T;
  TestAllocator() = default;
  template <typename U>
  TestAllocator(const TestAllocator<U>&) {}
  T* allocate(std::size_t count) { return static_cast<T*>(allocate_test_memory(count * sizeof(T))); }
  void deallocate(T* memory, std::size_t) { free_test_memory(memory); }
  bool operator==(const TestAllocator&) const { return true; }
};
template <typename T>
using DeviceVector = std::vector<T, TestAllocator<T>>;

}  // namespace dino::test
