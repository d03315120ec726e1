#pragma once

#include "kernels/common/error.h"
#include "tests/support/catch.h"

#include <string>
#include <string_view>
#include <utility>

namespace dino::test {

/// The message of the Error that `function` throws; empty when it throws none.
template <typename Function>
std::string error_of(Function&& function) {
  try {
    std::forward<Function>(function)();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

/// Is `part` in `text`? A check that fails shows the text. Only for the test's own thread, as all of Catch2's messages.
inline bool contains(const std::string& text, std::string_view part) {
  UNSCOPED_INFO(text);
  return text.find(part) != std::string::npos;
}

}  // namespace dino::test
