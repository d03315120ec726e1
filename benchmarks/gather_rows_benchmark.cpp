// The CLS rows out of all tokens, and their gradient among zeros.
#include "kernels/gather_rows/gather_rows.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/textbook.h"

#include <fmt/format.h>

#include <vector>

namespace dino::bench {
namespace {

using textbook::put;

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
  if (!bench.on_cpu()) return prepared;
  const auto textbook = [=] {
    textbook::dispatch(x, [=](auto t) {
      const auto* from = x.as<decltype(t)>();
      auto* to = y.as<decltype(t)>();
      const auto* row = at.as<std::int32_t>();
      textbook::for_rows(rows, [=](std::int64_t r) {
        for (std::int64_t c = 0; c < width; ++c) to[r * width + c] = from[row[r] * width + c];
      });
    });
  };
  prepared.references = {{"textbook", textbook}};
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
  if (!bench.on_cpu()) return prepared;
  const auto textbook = [=] {
    textbook::dispatch(dx, [=](auto t) {
      using T = decltype(t);
      const T* from = dy.as<T>();
      T* to = dx.as<T>();
      const auto* row = at.as<std::int32_t>();
      textbook::for_elements(dx.size(), [=](std::int64_t i) { to[i] = put<T>(0); });
      textbook::for_rows(rows, [=](std::int64_t r) {
        for (std::int64_t c = 0; c < width; ++c) to[row[r] * width + c] = from[r * width + c];
      });
    });
  };
  prepared.references = {{"textbook", textbook}};
  return prepared;
}

const Registered kForward{{.operation = "gather_rows", .pass = "forward", .prepare = prepare_forward}};
const Registered kBackward{{.operation = "gather_rows", .pass = "backward", .prepare = prepare_backward}};

}  // namespace
}  // namespace dino::bench
