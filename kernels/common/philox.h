#pragma once

#include <array>
#include <cstdint>

#if defined(__CUDACC__)
#define DINO_HOST_DEVICE __host__ __device__
#else
#define DINO_HOST_DEVICE
#endif

namespace dino {

/// Philox4x32-10 (Salmon et al., SC 2011): a random function of (key, counter). The same draw on CPU and GPU, whatever
/// the number of threads and ranks, and after a resume, because nothing is carried from draw to draw.
struct Philox {
  /// Four independent 32-bit draws for this key and counter.
  struct Block {
    std::uint32_t x[4];
  };

  DINO_HOST_DEVICE static Block draw(std::uint64_t key, std::uint64_t counter_low, std::uint64_t counter_high) {
    std::uint32_t k0 = static_cast<std::uint32_t>(key);
    std::uint32_t k1 = static_cast<std::uint32_t>(key >> 32);
    std::uint32_t c0 = static_cast<std::uint32_t>(counter_low);
    std::uint32_t c1 = static_cast<std::uint32_t>(counter_low >> 32);
    std::uint32_t c2 = static_cast<std::uint32_t>(counter_high);
    std::uint32_t c3 = static_cast<std::uint32_t>(counter_high >> 32);
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0;
      const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2;
      const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
      const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
      c1 = static_cast<std::uint32_t>(p1);
      c3 = static_cast<std::uint32_t>(p0);
      c0 = n0;
      c2 = n2;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
  }

  /// Uniform in [0, 1) with 24 bits, exact in fp32.
  DINO_HOST_DEVICE static float to_unit_float(std::uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }
};

}  // namespace dino
