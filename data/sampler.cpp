#include "data/sampler.h"

#include "engine/random.h"
#include "kernels/common/error.h"
#include "kernels/common/parallel.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace dino {

std::vector<std::int64_t> epoch_order(std::int64_t size, std::uint64_t seed, std::uint64_t epoch) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(size));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  Random random(seed, RandomStream::order, epoch);
  for (std::size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1], order[random.below(static_cast<std::uint32_t>(i))]);
  return order;
}

Sampler::Sampler(const SamplerOptions& options) : options_(options) {
  require(options.size >= 1 && options.size <= std::int64_t{1} << 25, "sampler",
          "a data set has 1 to 2^25 pictures; got {}", options.size);
  require(options.batch >= 1, "sampler", "the batch size must be at least 1; got {}", options.batch);
  require(options.ranks >= 1 && options.rank >= 0 && options.rank < options.ranks, "sampler",
          "the rank must lie in [0, ranks); got {} of {}", options.rank, options.ranks);
  require(batches_per_epoch() >= 1, "sampler", "{} pictures fill no batch of {} on {} ranks; try a smaller batch",
          options.size, options.batch, options.ranks);
}

std::int64_t Sampler::batches_per_epoch() const {
  const std::int64_t global_batch = std::int64_t{options_.batch} * options_.ranks;
  return (options_.size + (options_.drop_last ? 0 : global_batch - 1)) / global_batch;
}

std::vector<std::int64_t> Sampler::batch(std::int64_t epoch, std::int64_t index) {
  require(epoch >= 0 && index >= 0 && index < batches_per_epoch(), "sampler",
          "there is no batch {} in epoch {}; an epoch has {}", index, epoch, batches_per_epoch());
  const std::int64_t global_batch = std::int64_t{options_.batch} * options_.ranks;
  const std::int64_t first = index * global_batch;
  const std::int64_t here = std::min(global_batch, options_.size - first);
  const auto [begin, end] = thread_range(here, options_.rank, options_.ranks);
  std::vector<std::int64_t> samples(static_cast<std::size_t>(end - begin));
  if (!options_.shuffle) {
    std::iota(samples.begin(), samples.end(), first + begin);
    return samples;
  }
  if (ordered_epoch_ != epoch) {
    order_ = epoch_order(options_.size, options_.seed, static_cast<std::uint64_t>(epoch));
    ordered_epoch_ = epoch;
  }
  std::copy(order_.begin() + first + begin, order_.begin() + first + end, samples.begin());
  return samples;
}

}  // namespace dino
