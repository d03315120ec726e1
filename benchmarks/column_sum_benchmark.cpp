// The gradient of the widest bias.
#include "kernels/column_sum/column_sum.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/onednn.h"
#include "benchmarks/textbook.h"

#include <fmt/format.h>

#include <algorithm>

namespace dino::bench {
namespace {

using textbook::get;

Prepared prepare(Bench& bench) {
  const std::int64_t rows = bench.workload().tokens(), width = bench.workload().mlp();
  const Array x = bench.values({rows, width}), y = bench.zeros(DType::float32, {width});
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} x {}", rows, width),
                    .run = [=, &stream] { column_sum({.x = x, .y = y}, stream); },
                    .outputs = {y}};
  if (!bench.on_cpu()) return prepared;
  const auto textbook = [=] {
    textbook::dispatch(x, [=](auto t) {
      const auto* from = x.as<decltype(t)>();
      float* sums = y.as<float>();
      std::fill_n(sums, width, 0.0F);
#pragma omp parallel for reduction(+ : sums[:width])
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = 0; c < width; ++c) sums[c] += get(from[r * width + c]);
      }
    });
  };
  prepared.references = {{"textbook", textbook}, {"oneDNN", onednn::column_sum(x, y)}};
  return prepared;
}

const Registered kForward{{.operation = "column_sum", .pass = "forward", .prepare = prepare}};

}  // namespace
}  // namespace dino::bench
