#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace dino {

/// Every failure the program reports: `[where] what; got …, expected …; try …`, on one line.
class Error : public std::runtime_error {
 public:
  Error(std::string_view where, std::string_view what) : std::runtime_error(fmt::format("[{}] {}", where, what)) {}
};

/// Throws Error with a formatted message: `fail("knn", "k must be at least 1; got {}", k)`.
template <typename... Args>
[[noreturn]] void fail(std::string_view where, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(where, fmt::format(format, std::forward<Args>(args)...));
}

/// Throws Error unless `condition` holds. Arguments may be evaluated before it: a call that sets errno stands apart.
template <typename... Args>
void require(bool condition, std::string_view where, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]] {
    fail(where, format, std::forward<Args>(args)...);
  }
}

}  // namespace dino
