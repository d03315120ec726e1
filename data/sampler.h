#pragma once

#include <cstdint>
#include <vector>

namespace dino {

struct SamplerOptions {
  std::int64_t size = 0;  // pictures in the data set
  int batch = 0;          // pictures per rank and batch
  int rank = 0, ranks = 1;
  bool shuffle = true;
  bool drop_last = true;  // leaves out the last batch of an epoch where it is not full
  std::uint64_t seed = 0;
};

/// The order in which an epoch visits the pictures: a permutation of [0, size) that depends on seed and epoch only.
std::vector<std::int64_t> epoch_order(std::int64_t size, std::uint64_t seed, std::uint64_t epoch);

/// Splits every epoch into batches, and every batch over the ranks: rank r takes the r-th part of each run of
/// ranks·batch positions of the epoch's order. No picture is left out or comes twice, save for the last batch with
/// drop_last. What a global batch holds does not depend on how many ranks share it.
class Sampler {
 public:
  /// Throws Error where a number makes no sense, or no batch can be filled.
  explicit Sampler(const SamplerOptions& options);

  /// The same on every rank.
  std::int64_t batches_per_epoch() const;
  /// This rank's pictures in batch `index` of `epoch`; may be fewer than `batch` in the last one without drop_last.
  /// The order of an epoch is worked out once, at its first batch.
  std::vector<std::int64_t> batch(std::int64_t epoch, std::int64_t index);
  const SamplerOptions& options() const { return options_; }

 private:
  SamplerOptions options_;
  std::int64_t ordered_epoch_ = -1;
  std::vector<std::int64_t> order_;
};

}  // namespace dino
