// The exact GELU over the hidden layer of all tokens; backward with the gradient of the bias before it.
#include "kernels/gelu/gelu.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/onednn.h"
#include "benchmarks/textbook/gelu.h"
#include "benchmarks/textbook/textbook.h"

#include <fmt/format.h>

namespace dino::bench {
namespace {

Prepared prepare_forward(Bench& bench) {
  const std::int64_t rows = bench.workload().tokens(), width = bench.workload().mlp();
  const Array x = bench.values({rows, width}), y = bench.zeros(bench.dtype(), {rows, width});
  const GeluForward args{.x = x, .y = y};
  Stream& stream = bench.stream();
  Prepared prepared{
      .size = fmt::format("{} x {}", rows, width), .run = [=, &stream] { gelu_forward(args, stream); }, .outputs = {y}};
  textbook::add(bench, prepared, textbook::GeluForwardSteps{args});
  if (bench.on_cpu()) prepared.references.push_back({"oneDNN", onednn::gelu(x, y)});
  return prepared;
}

Prepared prepare_backward(Bench& bench) {
  const std::int64_t rows = bench.workload().tokens(), width = bench.workload().mlp();
  const Array x = bench.values({rows, width}), dy = bench.values({rows, width});
  const Array dx = bench.zeros(bench.dtype(), {rows, width}), dbias = bench.zeros(DType::float32, {width});
  const GeluBackward args{.x = x, .dy = dy, .dx = dx, .dbias = dbias, .dbias_mode = GradientMode::overwrite};
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} x {}", rows, width),
                    .run = [=, &stream] { gelu_backward(args, stream); },
                    .outputs = {dx, dbias}};
  textbook::add(bench, prepared, textbook::GeluBackwardSteps{args});
  if (!bench.on_cpu()) return prepared;
  const auto slope = onednn::gelu_backward(x, dy, dx), sums = onednn::column_sum(dx, dbias);
  prepared.references.push_back({"oneDNN", [=] {
                                   slope();
                                   sums();
                                 }});
  return prepared;
}

const Registered kForward{{.operation = "gelu", .pass = "forward", .prepare = prepare_forward}};
const Registered kBackward{{.operation = "gelu", .pass = "backward", .prepare = prepare_backward}};

}  // namespace
}  // namespace dino::bench
