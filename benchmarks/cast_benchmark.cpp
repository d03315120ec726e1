// The bf16 copy of a network's largest array.
#include "kernels/cast/cast.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/onednn.h"
#include "benchmarks/textbook/cast.h"
#include "benchmarks/textbook/textbook.h"

#include <fmt/format.h>

namespace dino::bench {
namespace {

Prepared prepare(Bench& bench) {
  const Shape shape{bench.workload().prototypes, bench.workload().bottleneck};
  const Array x = bench.values(DType::float32, shape), y = bench.zeros(DType::bfloat16, shape);
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} x {}", shape[0], shape[1]),
                    .run = [=, &stream] { cast({.x = x, .y = y}, stream); },
                    .outputs = {y}};
  textbook::add(bench, prepared, textbook::CastSteps{{.x = x, .y = y}});
  if (!bench.on_cpu()) return prepared;
  prepared.references.push_back({"oneDNN", onednn::reorder(x, y)});
  return prepared;
}

const Registered kToBf16{{"cast", "fp32 to bf16", prepare, {DType::float32}}};

}  // namespace
}  // namespace dino::bench
