#pragma once

#include "kernels/common/error.h"

#include <cstdint>
#include <string_view>

namespace dino {

/// What every reader of pictures says; `kind` is PNG, for example.
[[noreturn]] inline void fail_truncated(std::string_view name, std::string_view kind) {
  fail("decode", "{}: truncated {}: the file ends inside the picture; copy it again", name, kind);
}
[[noreturn]] inline void fail_broken(std::string_view name, std::string_view kind, std::string_view reason) {
  fail("decode", "{}: broken {}: {}", name, kind, reason);
}
inline void require_size(std::string_view name, std::int64_t height, std::int64_t width, std::int64_t max_pixels) {
  require(height * width <= max_pixels, "decode", "{}: picture too large; got {}×{} pixels, expected at most {} in all",
          name, width, height, max_pixels);
}

}  // namespace dino
