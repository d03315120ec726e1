#include "kernels/knn/knn.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace dino::reference {

void nearest_neighbors(const NearestNeighbors& args) {
  check(args);
  const std::int64_t width = args.queries.extent(1);
  const std::int64_t k = args.similarities.extent(1);
  std::vector<double> similarity(static_cast<std::size_t>(args.bank.extent(0)));
  std::vector<std::int32_t> order(similarity.size());
  for (std::int64_t q = 0; q < args.queries.extent(0); ++q) {
    for (std::size_t row = 0; row < similarity.size(); ++row) {
      double sum = 0;
      for (std::int64_t c = 0; c < width; ++c) {
        sum += load_double(args.queries, q * width + c) *
               load_double(args.bank, static_cast<std::int64_t>(row) * width + c);
      }
      similarity[row] = std::isnan(sum) ? -INFINITY : sum;
    }
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
      return similarity[static_cast<std::size_t>(a)] > similarity[static_cast<std::size_t>(b)];
    });
    for (std::int64_t n = 0; n < k; ++n) {
      const std::int32_t row = order[static_cast<std::size_t>(n)];
      const double value = similarity[static_cast<std::size_t>(row)];
      store_double(args.similarities, q * k + n, value);
      args.indices.as<std::int32_t>()[q * k + n] = value == -INFINITY ? -1 : row;
    }
  }
}

void knn_vote(const KnnVote& args) {
  check(args);
  const std::int64_t queries = args.similarities.extent(0);
  const std::int64_t k = args.similarities.extent(1);
  for (std::size_t j = 0; j < args.ks.size(); ++j) {
    for (std::int64_t q = 0; q < queries; ++q) {
      std::vector<double> votes(static_cast<std::size_t>(args.classes), 0.0);
      for (std::int64_t n = 0; n < args.ks[j]; ++n) {
        const std::int32_t row = args.indices.as<std::int32_t>()[q * k + n];
        if (row < 0) continue;
        const std::int32_t label = args.labels.as<std::int32_t>()[row];
        votes[static_cast<std::size_t>(label)] +=
            std::exp(load_double(args.similarities, q * k + n) / args.temperature);
      }
      std::vector<std::int32_t> order(votes.size());
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
        return votes[static_cast<std::size_t>(a)] > votes[static_cast<std::size_t>(b)];
      });
      order.resize(std::max<std::size_t>(order.size(), kTopClasses), -1);
      std::int32_t* predictions =
          args.predictions.as<std::int32_t>() + (static_cast<std::int64_t>(j) * queries + q) * kTopClasses;
      std::copy_n(order.begin(), kTopClasses, predictions);
    }
  }
}

}  // namespace dino::reference
