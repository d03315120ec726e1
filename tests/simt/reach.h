#pragma once

#include <cstddef>

namespace dino::simt {

/// Makes memory of the host one that kernels may be given: what a test's arrays lie in, and the memory of a device that
/// the host plays.
void add_reach(const void* begin, std::size_t size_bytes);
void remove_reach(const void* begin);

/// Throws Error where an argument of a kernel, taken for words of eight bytes, holds an address of this process that no
/// such memory has: a GPU would fault.
void require_within_reach(const void* argument, std::size_t size_bytes);

/// The same for an argument of any type. What lies between its members is nobody's address.
template <typename T>
void check_argument(T argument) {
#ifndef __clang__  // which has no such function
  __builtin_clear_padding(&argument);
  require_within_reach(&argument, sizeof argument);
#endif
}

}  // namespace dino::simt
