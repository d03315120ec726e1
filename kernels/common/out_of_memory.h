#pragma once

#include <cstddef>
#include <new>

namespace dino {

/// Memory of the host that was not to be had, with its size. The program says what is left (cli/main.cpp).
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::size_t size_bytes) : size_bytes_(size_bytes) {}
  const char* what() const noexcept override { return "out of memory"; }
  std::size_t size_bytes() const { return size_bytes_; }

 private:
  std::size_t size_bytes_;
};

}  // namespace dino
