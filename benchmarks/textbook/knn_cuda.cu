#include "benchmarks/textbook/knn.h"

#include "benchmarks/textbook/gpu.h"
#include "kernels/matmul/plain_matmul.h"

#include <limits>

namespace dino::bench::textbook {
namespace {

void take_largest(const NearestNeighborsSteps& steps, std::int64_t neighbor, const Gpu& on) {
  const std::int64_t count = steps.products.extent(1), k = steps.args.indices.extent(1);
  float *products = steps.products.as<float>(), *similarities = steps.args.similarities.as<float>();
  auto* indices = steps.args.indices.as<std::int32_t>();
  on.for_rows(steps.products.extent(0), count, [=] DINO_STEP(const BlockRow& row, std::int64_t q) {
    float* own = products + q * count;
    const float largest = row.max(count, [&](std::int64_t i) { return own[i]; });
    // The first of those that are equal.
    const std::int64_t from_last = row.max(count, [&](std::int64_t i) { return own[i] == largest ? count - i : 0; });
    similarities[q * k + neighbor] = largest;
    indices[q * k + neighbor] = static_cast<std::int32_t>(count - from_last);
    own[count - from_last] = -std::numeric_limits<float>::infinity();
  });
}

}  // namespace

Call NearestNeighborsSteps::on_gpu(const NearestNeighborsSteps& steps, Stream& stream) {
  return [=, &stream] {
    const NearestNeighbors& args = steps.args;
    cuda::plain_matmul({.a = args.queries, .b = args.bank, .y = steps.products, .transpose_b = true}, steps.products,
                       stream);
    for (std::int64_t i = 0; i < args.indices.extent(1); ++i) take_largest(steps, i, Gpu(stream));
  };
}

Call KnnVoteSteps::on_gpu(const KnnVoteSteps& steps, Stream& stream) { return call_of(steps, Gpu(stream)); }

}  // namespace dino::bench::textbook
