// The prototypes of the head's last layer.
#include "kernels/weight_norm/weight_norm.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/textbook/textbook.h"
#include "benchmarks/textbook/weight_norm.h"

#include <fmt/format.h>

namespace dino::bench {
namespace {

Prepared prepare_forward(Bench& bench) {
  const std::int64_t rows = bench.workload().prototypes, width = bench.workload().bottleneck;
  const Array v = bench.values(DType::float32, {rows, width}), g = bench.values(DType::float32, {rows});
  const Array w = bench.zeros(bench.dtype(), {rows, width}), norms = bench.zeros(DType::float32, {rows});
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} x {}", rows, width),
                    .run = [=, &stream] { weight_norm({.v = v, .g = g, .w = w}, stream); },
                    .outputs = {w}};
  textbook::add(bench, prepared, textbook::WeightNormSteps{{.v = v, .g = g, .w = w}, norms});
  return prepared;
}

Prepared prepare_backward(Bench& bench) {
  const std::int64_t rows = bench.workload().prototypes, width = bench.workload().bottleneck;
  const Array v = bench.values(DType::float32, {rows, width}), g = bench.values(DType::float32, {rows});
  const Array dw = bench.values({rows, width}), dv = bench.zeros(DType::float32, {rows, width});
  const Array norms = bench.zeros(DType::float32, {rows}), dots = bench.zeros(DType::float32, {rows});
  const WeightNormBackward args{.v = v, .g = g, .dw = dw, .dv = dv, .dg = {}, .dv_mode = GradientMode::overwrite};
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} x {}", rows, width),
                    .run = [=, &stream] { weight_norm_backward(args, stream); },
                    .outputs = {dv}};
  textbook::add(bench, prepared, textbook::WeightNormBackwardSteps{args, norms, dots});
  return prepared;
}

const Registered kForward{{.operation = "weight_norm", .pass = "forward", .prepare = prepare_forward}};
const Registered kBackward{{.operation = "weight_norm", .pass = "backward", .prepare = prepare_backward}};

}  // namespace
}  // namespace dino::bench
