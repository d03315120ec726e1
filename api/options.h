#pragma once

#include "api/refusal.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace dino::api {

/// The caller's structure of options as this library's: members that the caller's version does not have are 0, the
/// default. NULL is all defaults. Throws Refusal where struct_size was not set, and where members that this version
/// does not know are set.
template <typename Options>
Options complete(const Options* given, std::string_view name) {
  Options options{};
  if (given != nullptr) {
    std::uint32_t size = 0;
    std::memcpy(&size, given, sizeof size);
    constexpr std::uint32_t kLargest = 1 << 12;
    require_argument(size >= sizeof size && size <= kLargest, name,
                     "struct_size is {}; expected the size of the structure, {}", size, sizeof options);
    const auto* bytes = reinterpret_cast<const std::byte*>(given);
    std::memcpy(&options, bytes, std::min<std::size_t>(size, sizeof options));
    const bool known = size <= sizeof options ||
                       std::all_of(bytes + sizeof options, bytes + size, [](std::byte b) { return b == std::byte{0}; });
    require_argument(known, name,
                     "the program sets options that this version of the library does not know; try a newer "
                     "libdino_cuda");
  }
  options.struct_size = sizeof options;
  return options;
}

}  // namespace dino::api
