#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dino {

/// XXH64 with seed 0 of bytes that come in pieces (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md): finds
/// damage, not malice.
class Checksum {
 public:
  void add(std::span<const std::byte> bytes);
  /// Of all bytes so far; more may follow.
  std::uint64_t value() const;

 private:
  static constexpr std::size_t kStripe_bytes = 32;
  void add_stripe(const std::byte* stripe);

  std::array<std::uint64_t, 4> lanes_ = {0x60ea27eeadc0b5d6u, 0xc2b2ae3d27d4eb4fu, 0, 0x61c8864e7a143579u};
  std::array<std::byte, kStripe_bytes> rest_{};  // its first total_bytes_ % 32 bytes wait for a whole stripe
  std::uint64_t total_bytes_ = 0;
};

}  // namespace dino
