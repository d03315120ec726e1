// The head's bottleneck of all views.
#include "kernels/l2_normalize/l2_normalize.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/textbook.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace dino::bench {
namespace {

using textbook::get;
using textbook::put;

Prepared prepare_forward(Bench& bench) {
  const std::int64_t rows = bench.workload().sequences(), width = bench.workload().bottleneck;
  const Array x = bench.values({rows, width}), y = bench.zeros(bench.dtype(), {rows, width});
  const Array norms = bench.zeros(DType::float32, {rows});
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} x {}", rows, width),
                    .run = [=, &stream] { l2_normalize({.x = x, .y = y}, stream); },
                    .outputs = {y}};
  if (!bench.on_cpu()) return prepared;
  const auto textbook = [=] {
    textbook::dispatch(x, [=](auto t) {
      using T = decltype(t);
      const T* from = x.as<T>();
      T* to = y.as<T>();
      float* norm = norms.as<float>();
      textbook::for_rows(rows, [=](std::int64_t r) {
        float sum = 0;
        for (std::int64_t i = r * width; i < (r + 1) * width; ++i) sum += get(from[i]) * get(from[i]);
        norm[r] = std::max(std::sqrt(sum), 1e-12F);
      });
      textbook::for_rows(rows, [=](std::int64_t r) {
        for (std::int64_t i = r * width; i < (r + 1) * width; ++i) to[i] = put<T>(get(from[i]) / norm[r]);
      });
    });
  };
  prepared.references = {{"textbook", textbook}};
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
  if (!bench.on_cpu()) return prepared;
  const auto textbook = [=] {
    textbook::dispatch(x, [=](auto t) {
      using T = decltype(t);
      const T *from = x.as<T>(), *d = dy.as<T>();
      T* to = dx.as<T>();
      float *norm = norms.as<float>(), *dot = dots.as<float>();
      textbook::for_rows(rows, [=](std::int64_t r) {
        float sum = 0;
        for (std::int64_t i = r * width; i < (r + 1) * width; ++i) sum += get(from[i]) * get(from[i]);
        norm[r] = std::max(std::sqrt(sum), 1e-12F);
      });
      textbook::for_rows(rows, [=](std::int64_t r) {
        float sum = 0;
        for (std::int64_t i = r * width; i < (r + 1) * width; ++i) sum += get(from[i]) / norm[r] * get(d[i]);
        dot[r] = sum;
      });
      textbook::for_rows(rows, [=](std::int64_t r) {
        for (std::int64_t i = r * width; i < (r + 1) * width; ++i)
          to[i] = put<T>((get(d[i]) - get(from[i]) / norm[r] * dot[r]) / norm[r]);
      });
    });
  };
  prepared.references = {{"textbook", textbook}};
  return prepared;
}

const Registered kForward{{.operation = "l2_normalize", .pass = "forward", .prepare = prepare_forward}};
const Registered kBackward{{.operation = "l2_normalize", .pass = "backward", .prepare = prepare_backward}};

}  // namespace
}  // namespace dino::bench
