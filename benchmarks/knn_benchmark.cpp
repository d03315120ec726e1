// The nearest neighbours: a tenth of the queries as a kernel, all of them as a program.
#include "kernels/knn/knn.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/textbook/knn.h"
#include "benchmarks/textbook/textbook.h"

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

Prepared prepare_search(Bench& bench, const NearestNeighbors& args) {
  const std::int64_t queries = args.queries.extent(0);
  const Workload& w = bench.workload();
  Stream& stream = bench.stream();
  return {.size = fmt::format("{} in {} x {}", queries, w.bank, w.width),
          .run = [=, &stream] { nearest_neighbors(args, stream); },
          .outputs = {args.similarities},
          .items = static_cast<double>(queries),
          .item = "queries"};
}

Prepared prepare_kernel(Bench& bench) {
  const Workload& w = bench.workload();
  const NearestNeighbors args = search(bench, std::max<std::int64_t>(1, w.queries / 10));
  Prepared prepared = prepare_search(bench, args);
  prepared.items = 0;
  if (!bench.on_cpu()) {
    const Array products = bench.zeros(DType::float32, {args.queries.extent(0), w.bank});
    textbook::add_on_gpu(bench, prepared, textbook::NearestNeighborsSteps{args, products});
  }
  return prepared;
}

Prepared prepare_program(Bench& bench) { return prepare_search(bench, search(bench, bench.workload().queries)); }

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
  Prepared prepared{.size = fmt::format("{}, k = 10 and 20", queries),
                    .run = [=, &stream] { knn_vote(args, stream); },
                    .outputs = {args.predictions}};
  textbook::add(bench, prepared,
                textbook::KnnVoteSteps{args, bench.zeros(DType::float64, {queries, std::int64_t{args.classes}})});
  return prepared;
}

const Registered kKernel{{"knn", "search", prepare_kernel, {DType::float32}}};
const Registered kVote{{"knn", "vote", prepare_vote, {DType::float32}}};
const Registered kProgram{{"knn_search", "k = 20", prepare_program, {DType::float32}, true}};

}  // namespace
}  // namespace dino::bench
