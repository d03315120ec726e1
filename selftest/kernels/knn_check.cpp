#include "kernels/knn/knn.h"
#include "selftest/kernels/kernel_check.h"

namespace dino {
namespace {

void nearest_neighbors_check(KernelBench& b) {
  const Value queries = b.coarse({7, 17}), bank = b.coarse({300, 17}), similarities = b.result(kFloat, {7, 20}),
              indices = b.result(DType::int32, {7, 20});
  b.run(
      [&](At at) {
        return NearestNeighbors{
            .queries = at(queries), .bank = at(bank), .similarities = at(similarities), .indices = at(indices)};
      },
      nearest_neighbors, reference::nearest_neighbors, {{"similarities", similarities, 0}, {"indices", indices, 0}});
}

void knn_vote_check(KernelBench& b) {
  static const std::vector<std::int32_t> kCounts{1, 10, 20};
  std::vector<std::int32_t> labels, places;
  for (std::int32_t i = 0; i < 300; ++i) labels.push_back(i * 7 % 10);
  for (std::int32_t i = 0; i < 7 * 20; ++i) places.push_back(i * 37 % 300);
  const Value similarities = b.coarse({7, 20}), indices = b.integers({7, 20}, places),
              label = b.integers({300}, labels), predictions = b.result(DType::int32, {3, 7, kTopClasses});
  b.run(
      [&](At at) {
        return KnnVote{.similarities = at(similarities),
                       .indices = at(indices),
                       .labels = at(label),
                       .classes = 10,
                       .ks = kCounts,
                       .temperature = 0.5,
                       .predictions = at(predictions)};
      },
      knn_vote, reference::knn_vote, {{"predictions", predictions, 0}});
}

}  // namespace

KernelChecks knn_checks() {
  static constexpr KernelCheck kChecks[] = {
      {"knn_vote", false, knn_vote_check},
      {"nearest_neighbors", false, nearest_neighbors_check},
  };
  return kChecks;
}

}  // namespace dino
