#pragma once

#include <cstdint>
#include <mutex>

namespace dino {

/// Held while a large picture is decoded: a few bytes can claim one of 2 GB, and a loader has many threads. Others are
/// decoded meanwhile.
inline std::unique_lock<std::mutex> lock_if_large(std::int64_t pixels) {
  constexpr std::int64_t kLargePixels = std::int64_t{1} << 25;
  static std::mutex one_at_a_time;
  return pixels > kLargePixels ? std::unique_lock(one_at_a_time) : std::unique_lock<std::mutex>();
}

}  // namespace dino
