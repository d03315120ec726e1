#include "kernels/knn/knn.h"

#include "kernels/common/operation_cost.h"

namespace dino {

using namespace cost;

OperationCost cost_of(const NearestNeighbors& a, Stream&) {
  return {.group = kKnn,
          .work = "",
          .size = size_of_array(a.queries) + size_of_array(a.bank),
          .bytes = bytes_of({a.queries, a.bank}),
          .flops = 2 * count(a.queries) * static_cast<double>(a.bank.extent(0))};
}

OperationCost cost_of(const KnnVote& a, Stream&) {
  return {.group = kKnn,
          .work = "",
          .size = size_of_array(a.indices),
          .bytes = bytes_of({a.similarities, a.indices, a.predictions})};
}

}  // namespace dino
