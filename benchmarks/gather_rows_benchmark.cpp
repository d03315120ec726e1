// The CLS rows out of all tokens, and their gradient among zeros.
#include "kernels/gather_rows/gather_rows.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/textbook/gather_rows.h"
#include "benchmarks/textbook/textbook.h"

#include <fmt/format.h>

#include <vector>

namespace dino::bench {
namespace {

Array cls_rows(Bench& bench) {
  std::vector<std::int32_t> rows = bench.sequence_offsets();
  rows.pop_back();
  return bench.indices(rows);
}

Prepared prepare_forward(Bench& bench) {
  const std::int64_t tokens = bench.workload().tokens(), rows = bench.workload().sequences();
  const std::int64_t width = bench.workload().width;
  const Array x = bench.values({tokens, width}), at = cls_rows(bench), y = bench.zeros(bench.dtype(), {rows, width});
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} of {} x {}", rows, tokens, width),
                    .run = [=, &stream] { gather_rows({.x = x, .rows = at, .y = y}, stream); },
                    .outputs = {y}};
  textbook::add(bench, prepared, textbook::GatherRowsSteps{{.x = x, .rows = at, .y = y}});
  return prepared;
}

Prepared prepare_backward(Bench& bench) {
  const std::int64_t tokens = bench.workload().tokens(), rows = bench.workload().sequences();
  const std::int64_t width = bench.workload().width;
  const Array dy = bench.values({rows, width}), at = cls_rows(bench), dx = bench.zeros(bench.dtype(), {tokens, width});
  const GatherRowsBackward args{.dy = dy, .rows = at, .dx = dx, .mode = GradientMode::overwrite};
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} of {} x {}", rows, tokens, width),
                    .run = [=, &stream] { gather_rows_backward(args, stream); },
                    .outputs = {dx}};
  textbook::add(bench, prepared, textbook::GatherRowsBackwardSteps{args});
  return prepared;
}

const Registered kForward{{.operation = "gather_rows", .pass = "forward", .prepare = prepare_forward}};
const Registered kBackward{{.operation = "gather_rows", .pass = "backward", .prepare = prepare_backward}};

}  // namespace
}  // namespace dino::bench
