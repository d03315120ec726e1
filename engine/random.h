#pragma once

#include "kernels/common/philox.h"

#include <cstdint>
#include <string_view>

namespace dino {

/// Independent purposes that draw random numbers; never renumber, runs depend on them.
enum class RandomStream : std::uint32_t {
  weights = 1,
  order = 2,
  crops = 3,
  drop_path = 4,
  linear_probe = 5,
  scenes = 6,
  few_shot = 7,
  test = 1000
};

/// Draws for one (seed, stream, epoch, sample, view): the n-th draw depends on nothing else, so the same numbers appear
/// on every machine, for any number of threads and ranks, and after a resume. Cheap to make and to copy.
class Random {
 public:
  Random(std::uint64_t seed, RandomStream stream, std::uint64_t epoch = 0, std::uint64_t sample = 0,
         std::uint32_t view = 0)
      : key_(seed ^ (static_cast<std::uint64_t>(stream) * 0x9E3779B97F4A7C15u)),
        high_((epoch << 32) | view),
        sample_(sample) {}

  std::uint32_t bits();
  /// Uniform in [0, 1), 24 bits.
  float uniform() { return Philox::to_unit_float(bits()); }
  double uniform(double low, double high) { return low + (high - low) * static_cast<double>(uniform()); }
  /// Uniform integer in [0, n), n >= 1, without bias.
  std::uint32_t below(std::uint32_t n);
  bool chance(double probability) { return static_cast<double>(uniform()) < probability; }
  /// Standard normal (Box-Muller, in double).
  double normal();

 private:
  std::uint64_t key_;
  std::uint64_t high_;    // epoch, 32 bits; view, up to 2^26: the rest counts draws as well
  std::uint64_t sample_;  // up to 2^40 samples, 2^26 draws each and, with what high_ counts, 2^32
  std::uint32_t drawn_ = 0;
  Philox::Block block_{};
};

/// FNV-1a: a stable number for a name.
std::uint64_t stable_hash(std::string_view text);

}  // namespace dino
