// The 200 nearest of 20,000 images for 1,000 queries with ViT-S's features, and their votes.
#include "kernels/knn/knn.h"

#include <benchmark/benchmark.h>

#include <vector>

namespace dino {
namespace {

constexpr std::int64_t kQueries = 1000, kBank = 20000, kChannels = 384, kNeighbors = 200;

std::vector<float> features(std::int64_t rows, std::uint32_t state) {
  std::vector<float> values(static_cast<std::size_t>(rows * kChannels));
  for (float& value : values) {
    state = state * 1664525U + 1013904223U;
    value = (static_cast<float>(state >> 8) * 0x1p-24F - 0.5F) * 0.17F;
  }
  return values;
}

struct Found {
  std::vector<float> similarities = std::vector<float>(kQueries * kNeighbors);
  std::vector<std::int32_t> indices = std::vector<std::int32_t>(kQueries * kNeighbors);
};

void nearest_neighbors_benchmark(benchmark::State& state) {
  const auto queries = features(kQueries, 1), bank = features(kBank, 2);
  Found found;
  const auto stream = make_cpu_stream();
  for (auto _ : state) {
    nearest_neighbors({.queries = ConstArray(queries.data(), {kQueries, kChannels}),
                       .bank = ConstArray(bank.data(), {kBank, kChannels}),
                       .similarities = Array(found.similarities.data(), {kQueries, kNeighbors}),
                       .indices = Array(found.indices.data(), {kQueries, kNeighbors})},
                      *stream);
  }
  state.counters["flop/s"] = benchmark::Counter(
      2.0 * kQueries * kBank * kChannels * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

void knn_vote_benchmark(benchmark::State& state) {
  Found found;
  std::vector<std::int32_t> labels(kBank);
  for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<std::int32_t>(i % 1000);
  for (std::size_t i = 0; i < found.indices.size(); ++i) found.indices[i] = static_cast<std::int32_t>(i * 7919 % kBank);
  const std::vector<std::int32_t> ks{10, 20, 100, 200};
  std::vector<std::int32_t> predictions(ks.size() * kQueries * kTopClasses);
  const auto stream = make_cpu_stream();
  for (auto _ : state) {
    knn_vote({.similarities = ConstArray(found.similarities.data(), {kQueries, kNeighbors}),
              .indices = ConstArray(found.indices.data(), {kQueries, kNeighbors}),
              .labels = ConstArray(labels.data(), {kBank}),
              .classes = 1000,
              .ks = ks,
              .predictions = Array(predictions.data(), {static_cast<std::int64_t>(ks.size()), kQueries, kTopClasses})},
             *stream);
  }
  state.counters["queries/s"] = benchmark::Counter(
      static_cast<double>(kQueries) * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

BENCHMARK(nearest_neighbors_benchmark)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(knn_vote_benchmark)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace dino

BENCHMARK_MAIN();
