#pragma once

#include "benchmarks/textbook/step.h"
#include "kernels/knn/knn.h"

namespace dino::bench::textbook {

/// All similarities, as a product of matrices; then k times the largest of each row, which is struck out. On a GPU
/// only: at the sizes of an evaluation the product alone would take a CPU minutes.
struct NearestNeighborsSteps {
  NearestNeighbors args;
  Array products;  // (Q, M) fp32

  [[gnu::weak]] static Call on_gpu(const NearestNeighborsSteps& steps, Stream& stream);
};

/// The votes of all classes, then five times the class with most of them, which is struck out; one k after the other.
struct KnnVoteSteps {
  KnnVote args;
  Array votes;  // (Q, classes) float64

  [[gnu::weak]] static Call on_gpu(const KnnVoteSteps& steps, Stream& stream);

  template <typename On>
  void run(const On& on) const {
    auto* predictions = args.predictions.as<std::int32_t>();
    for (const std::int32_t k : args.ks) {
      vote(on, k, predictions);
      predictions += args.similarities.extent(0) * kTopClasses;
    }
  }

  template <typename On>
  void vote(const On& on, std::int32_t k, std::int32_t* predictions) const {
    const std::int64_t queries = args.similarities.extent(0), most = args.similarities.extent(1);
    const std::int64_t classes = args.classes;
    const auto* similarities = args.similarities.as<float>();
    const auto *indices = args.indices.as<std::int32_t>(), *labels = args.labels.as<std::int32_t>();
    auto* all_votes = votes.as<double>();
    const double temperature = args.temperature;
    on.for_each(queries * classes, [=] DINO_STEP(std::int64_t i) { all_votes[i] = 0; });
    on.for_each(queries, [=] DINO_STEP(std::int64_t q) {
      for (std::int64_t n = q * most; n < q * most + k; ++n)
        all_votes[q * classes + labels[indices[n]]] += std::exp(static_cast<double>(similarities[n]) / temperature);
    });
    for (std::int64_t place = 0; place < kTopClasses; ++place) {
      on.for_rows(queries, classes, [=] DINO_STEP(const typename On::Row& row, std::int64_t q) {
        double* own = all_votes + q * classes;
        const double largest = row.max(classes, [&](std::int64_t c) { return own[c]; });
        // The first of those that are equal.
        const std::int64_t from_last =
            row.max(classes, [&](std::int64_t c) { return own[c] == largest ? classes - c : 0; });
        const auto winner = static_cast<std::int32_t>(classes - from_last);
        predictions[q * kTopClasses + place] = place < classes ? winner : -1;
        own[winner] = -1;
      });
    }
  }
};

}  // namespace dino::bench::textbook
