#pragma once

#include "api/include/dino_cuda.h"
#include "kernels/common/error.h"

#include <string_view>
#include <utility>

namespace dino::api {

/// A failure, with what it is to the caller.
class Refusal : public Error {
 public:
  Refusal(dino_status status, const Error& error) : Error(error), status_(status) {}
  dino_status status() const { return status_; }

 private:
  dino_status status_;
};

/// Runs `body`; its Errors become Refusals with this status.
template <typename Body>
decltype(auto) failing_as(dino_status status, Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (const Refusal&) {
    throw;
  } catch (const Error& error) {
    throw Refusal(status, error);
  }
}

/// Throws Refusal with DINO_INVALID_ARGUMENT unless `condition` holds.
template <typename... Args>
void require_argument(bool condition, std::string_view where, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]] {
    throw Refusal(DINO_INVALID_ARGUMENT, Error(where, fmt::format(format, std::forward<Args>(args)...)));
  }
}

}  // namespace dino::api
