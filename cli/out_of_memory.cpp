// The program's own operator new: the library's, save that its failure knows what was asked for.
#include "kernels/common/out_of_memory.h"

#include <cstdlib>

// A sanitizer has its own, which say more.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

void* operator new(std::size_t size_bytes) {
  void* memory = std::malloc(size_bytes > 0 ? size_bytes : 1);
  if (memory == nullptr) throw dino::OutOfMemory(size_bytes);
  return memory;
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

#endif
