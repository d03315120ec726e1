// The head's bottleneck of all views.
#include "kernels/l2_normalize/l2_normalize.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/textbook/l2_normalize.h"
#include "benchmarks/textbook/textbook.h"

#include <fmt/format.h>

namespace dino::bench {
namespace {

Prepared prepare_forward(Bench& bench) {
  const std::int64_t rows = bench.workload().sequences(), width = bench.workload().bottleneck;
  const Array x = bench.values({rows, width}), y = bench.zeros(bench.dtype(), {rows, width});
  const Array norms = bench.zeros(DType::float32, {rows});
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} x {}", rows, width),
                    .run = [=, &stream] { l2_normalize({.x = x, .y = y}, stream); },
                    .outputs = {y}};
  textbook::add(bench, prepared, textbook::L2NormalizeSteps{{.x = x, .y = y}, norms});
  return prepared;
}

Prepared prepare_backward(Bench& bench) {
  const std::int64_t rows = bench.workload().sequences(), width = bench.workload().bottleneck;
  const Array x = bench.values({rows, width}), dy = bench.values({rows, width});
  const Array dx = bench.zeros(bench.dtype(), {rows, width}), norms = bench.zeros(DType::float32, {rows});
  const Array dots = bench.zeros(DType::float32, {rows});
  const L2NormalizeBackward args{.x = x, .dy = dy, .dx = dx, .mode = GradientMode::overwrite};
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} x {}", rows, width),
                    .run = [=, &stream] { l2_normalize_backward(args, stream); },
                    .outputs = {dx}};
  textbook::add(bench, prepared, textbook::L2NormalizeBackwardSteps{args, norms, dots});
  return prepared;
}

const Registered kForward{{.operation = "l2_normalize", .pass = "forward", .prepare = prepare_forward}};
const Registered kBackward{{.operation = "l2_normalize", .pass = "backward", .prepare = prepare_backward}};

}  // namespace
}  // namespace dino::bench
