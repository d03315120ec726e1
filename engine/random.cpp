#include "engine/random.h"

#include <cmath>
#include <numbers>

namespace dino {

std::uint32_t Random::bits() {
  const std::uint32_t lane = drawn_ % 4;
  if (lane == 0) {
    const std::uint64_t block = drawn_ / 4;
    block_ = Philox::draw(key_, (sample_ << 24) | (block & 0xffffff), high_ | (block >> 24 << 26));
  }
  ++drawn_;
  return block_.x[lane];
}

std::uint32_t Random::below(std::uint32_t n) {
  // Draws from the incomplete last multiple of n are thrown away.
  const std::uint32_t limit = (0u - n) % n;
  std::uint32_t x = bits();
  while (x < limit) x = bits();
  return x % n;
}

double Random::normal() {
  const double u = (static_cast<double>(bits()) + 1.0) * 0x1p-32;  // in (0, 1]
  const double angle = 2.0 * std::numbers::pi * static_cast<double>(bits()) * 0x1p-32;
  return std::sqrt(-2.0 * std::log(u)) * std::cos(angle);
}

std::uint64_t stable_hash(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

}  // namespace dino
