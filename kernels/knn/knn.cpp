#include "kernels/knn/knn.h"

#include <limits>

namespace dino {

void check(const NearestNeighbors& args) {
  constexpr const char* kWhere = "nearest_neighbors";
  require(args.queries.shape().rank() == 2 && args.bank.shape().rank() == 2 &&
              args.queries.extent(1) == args.bank.extent(1),
          kWhere, "queries (Q, C) and bank (M, C) disagree; got {} and {}", args.queries.shape().to_string(),
          args.bank.shape().to_string());
  require_array(args.queries, DType::float32, args.queries.shape(), kWhere, "queries");
  require_array(args.bank, DType::float32, args.bank.shape(), kWhere, "bank");
  require(args.similarities.shape().rank() == 2, kWhere, "similarities must be (Q, k); got {}",
          args.similarities.shape().to_string());
  const std::int64_t k = args.similarities.extent(1);
  require(k >= 1 && k <= args.bank.extent(0), kWhere, "k must be between 1 and the {} rows of the bank; got {}",
          args.bank.extent(0), k);
  require(args.bank.extent(0) <= std::numeric_limits<std::int32_t>::max(), kWhere, "the bank has too many rows: {}",
          args.bank.extent(0));
  const Shape shape{args.queries.extent(0), k};
  require(args.similarities.shape() == shape && args.indices.shape() == shape && args.indices.dtype() == DType::int32,
          kWhere, "similarities and int32 indices must be {}; got {} and {}", shape.to_string(),
          args.similarities.shape().to_string(), args.indices.shape().to_string());
}

void check(const KnnVote& args) {
  constexpr const char* kWhere = "knn_vote";
  require(args.similarities.shape().rank() == 2 && args.indices.shape() == args.similarities.shape() &&
              args.indices.dtype() == DType::int32,
          kWhere, "similarities and int32 indices must be (Q, k); got {} and {}", args.similarities.shape().to_string(),
          args.indices.shape().to_string());
  require(args.labels.shape().rank() == 1 && args.labels.dtype() == DType::int32, kWhere,
          "labels must be (M) int32; got {}", args.labels.shape().to_string());
  require(args.classes >= 1, kWhere, "at least one class is needed; got {}", args.classes);
  require(args.temperature > 0, kWhere, "the temperature must be above 0; got {}", args.temperature);
  std::int32_t previous = 1;
  for (const std::int32_t k : args.ks) {
    require(k >= previous && k <= args.similarities.extent(1), kWhere,
            "ks must ascend from at least 1 to at most {}; got {} after {}", args.similarities.extent(1), k, previous);
    previous = k;
  }
  require_array(args.predictions, DType::int32,
                {static_cast<std::int64_t>(args.ks.size()), args.similarities.extent(0), kTopClasses}, kWhere,
                "predictions");
}

}  // namespace dino
