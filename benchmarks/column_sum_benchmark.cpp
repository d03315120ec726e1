// The gradient of the widest bias.
#include "kernels/column_sum/column_sum.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/onednn.h"
#include "benchmarks/textbook/column_sum.h"
#include "benchmarks/textbook/textbook.h"

#include <fmt/format.h>

namespace dino::bench {
namespace {

Prepared prepare(Bench& bench) {
  const std::int64_t rows = bench.workload().tokens(), width = bench.workload().mlp();
  const Array x = bench.values({rows, width}), y = bench.zeros(DType::float32, {width});
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} x {}", rows, width),
                    .run = [=, &stream] { column_sum({.x = x, .y = y}, stream); },
                    .outputs = {y}};
  textbook::add(bench, prepared, textbook::ColumnSumSteps{{.x = x, .y = y}});
  if (!bench.on_cpu()) return prepared;
  prepared.references.push_back({"oneDNN", onednn::column_sum(x, y)});
  return prepared;
}

const Registered kForward{{.operation = "column_sum", .pass = "forward", .prepare = prepare}};

}  // namespace
}  // namespace dino::bench
