#pragma once

#include "kernels/common/array.h"
#include "kernels/common/operation.h"

#include <span>

namespace dino {

/// The k rows of a bank that are most similar to each query, by scalar product (cosine, where rows are L2-normalised),
/// most similar first. Of equally similar rows the one with the lower index comes first. A similarity that is NaN or -∞
/// is no neighbour; a query with fewer than k neighbours ends with similarity -∞, index -1. Flops: 2·Q·M·C. No (Q, M)
/// matrix exists: products of a tile of queries and bank rows go straight into each query's heap of the k best.
/// Numerics: every scalar product sums its C terms in the same order, in fp32, wherever it falls into a tile. Equal
/// rows thus have equal similarities, and results do not depend on the number of threads. (A library's GEMM promises
/// neither.)
struct NearestNeighbors {
  ConstArray queries{};  // (Q, C) float32
  ConstArray bank{};     // (M, C) float32, M < 2^31
  Array similarities{};  // (Q, k) float32, 1 <= k <= M
  Array indices{};       // (Q, k) int32, rows of the bank
};
DINO_OPERATION(nearest_neighbors, NearestNeighbors)

/// The class that each query's neighbours vote for: neighbour n has weight exp(similarity / temperature).
/// predictions[j, q] are the five classes with most votes of the first ks[j] neighbours, most votes first; the lower
/// class first where votes are equal, those without any votes included; -1 where there are fewer than five classes.
/// Numerics: votes are summed in double, in the order of the neighbours.
/// Source: Wu et al., arXiv 1805.01978; official eval_knn.py:146-189.
struct KnnVote {
  ConstArray similarities{};           // (Q, k) float32, of NearestNeighbors
  ConstArray indices{};                // (Q, k) int32
  ConstArray labels{};                 // (M) int32, classes of the bank's rows, in [0, classes)
  std::int32_t classes = 0;            // at least 1
  std::span<const std::int32_t> ks{};  // (J) ascending, in [1, k], on the host
  double temperature = 0.07;
  Array predictions{};  // (J, Q, 5) int32
};
DINO_OPERATION(knn_vote, KnnVote)

inline constexpr int kTopClasses = 5;

/// Throws Error where types and shapes do not go together.
void check(const NearestNeighbors& args);
void check(const KnnVote& args);

}  // namespace dino
