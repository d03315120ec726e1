// The nearest neighbours: a tenth of the queries as a kernel, all of them as a program.
#include "kernels/knn/knn.h"

#include "benchmarks/benchmark.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace dino::bench {
namespace {

constexpr std::int64_t kNeighbors = 20;

NearestNeighbors search(Bench& bench, std::int64_t queries) {
  const Workload& w = bench.workload();
  return {.queries = bench.values(DType::float32, {queries, w.width}),
          .bank = bench.values(DType::float32, {w.bank, w.width}),
          .similarities = bench.zeros(DType::float32, {queries, kNeighbors}),
          .indices = bench.zeros(DType::int32, {queries, kNeighbors})};
}

Prepared prepare_search(Bench& bench, std::int64_t queries) {
  const NearestNeighbors args = search(bench, queries);
  const Workload& w = bench.workload();
  Stream& stream = bench.stream();
  return {.size = fmt::format("{} in {} x {}", queries, w.bank, w.width),
          .run = [=, &stream] { nearest_neighbors(args, stream); },
          .outputs = {args.similarities},
          .items = static_cast<double>(queries),
          .item = "queries"};
}

Prepared prepare_kernel(Bench& bench) {
  const std::int64_t queries = std::max<std::int64_t>(1, bench.workload().queries / 10);
  Prepared prepared = prepare_search(bench, queries);
  prepared.items = 0;
  return prepared;
}

Prepared prepare_program(Bench& bench) { return prepare_search(bench, bench.workload().queries); }

Prepared prepare_vote(Bench& bench) {
  const Workload& w = bench.workload();
  const std::int64_t queries = w.queries;
  std::vector<std::int32_t> labels(static_cast<std::size_t>(w.bank));
  std::vector<std::int32_t> indices(static_cast<std::size_t>(queries * kNeighbors));
  for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<std::int32_t>(i % 1000);
  for (std::size_t i = 0; i < indices.size(); ++i)
    indices[i] = static_cast<std::int32_t>(static_cast<std::int64_t>(i) * 7919 % w.bank);
  static const std::vector<std::int32_t> ks{10, 20};
  const KnnVote args{.similarities = bench.values(DType::float32, {queries, kNeighbors}),
                     .indices = bench.indices(indices).reshaped({queries, kNeighbors}),
                     .labels = bench.indices(labels),
                     .classes = 1000,
                     .ks = ks,
                     .predictions = bench.zeros(DType::int32, {2, queries, kTopClasses})};
  Stream& stream = bench.stream();
  return {.size = fmt::format("{}, k = 10 and 20", queries), .run = [=, &stream] { knn_vote(args, stream); }};
}

const Registered kKernel{{"knn", "search", prepare_kernel, {DType::float32}}};
const Registered kVote{{"knn", "vote", prepare_vote, {DType::float32}}};
const Registered kProgram{{"knn_search", "k = 20", prepare_program, {DType::float32}, true}};

}  // namespace
}  // namespace dino::bench
