// The prototypes of the head's last layer.
#include "kernels/weight_norm/weight_norm.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/textbook.h"

#include <fmt/format.h>

#include <cmath>

namespace dino::bench {
namespace {

using textbook::get;
using textbook::put;

/// ‖v‖ of every row.
void textbook_norms(const Array& v, float* norms) {
  const std::int64_t width = v.extent(1);
  const float* from = v.as<float>();
  textbook::for_rows(v.extent(0), [=](std::int64_t r) {
    float sum = 0;
    for (std::int64_t i = r * width; i < (r + 1) * width; ++i) sum += from[i] * from[i];
    norms[r] = std::sqrt(sum);
  });
}

Prepared prepare_forward(Bench& bench) {
  const std::int64_t rows = bench.workload().prototypes, width = bench.workload().bottleneck;
  const Array v = bench.values(DType::float32, {rows, width}), g = bench.values(DType::float32, {rows});
  const Array w = bench.zeros(bench.dtype(), {rows, width}), norms = bench.zeros(DType::float32, {rows});
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} x {}", rows, width),
                    .run = [=, &stream] { weight_norm({.v = v, .g = g, .w = w}, stream); },
                    .outputs = {w}};
  if (!bench.on_cpu()) return prepared;
  const auto textbook = [=] {
    textbook_norms(v, norms.as<float>());
    textbook::dispatch(w, [=](auto t) {
      using T = decltype(t);
      const float *from = v.as<float>(), *gain = g.as<float>(), *norm = norms.as<float>();
      T* to = w.as<T>();
      textbook::for_rows(rows, [=](std::int64_t r) {
        for (std::int64_t i = r * width; i < (r + 1) * width; ++i) to[i] = put<T>(gain[r] * from[i] / norm[r]);
      });
    });
  };
  prepared.references = {{"textbook", textbook}};
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
  if (!bench.on_cpu()) return prepared;
  const auto textbook = [=] {
    textbook_norms(v, norms.as<float>());
    textbook::dispatch(dw, [=](auto t) {
      const auto* d = dw.as<decltype(t)>();
      const float *from = v.as<float>(), *gain = g.as<float>(), *norm = norms.as<float>();
      float *to = dv.as<float>(), *dot = dots.as<float>();
      textbook::for_rows(rows, [=](std::int64_t r) {
        float sum = 0;
        for (std::int64_t i = r * width; i < (r + 1) * width; ++i) sum += from[i] / norm[r] * get(d[i]);
        dot[r] = sum;
      });
      textbook::for_rows(rows, [=](std::int64_t r) {
        for (std::int64_t i = r * width; i < (r + 1) * width; ++i)
          to[i] = gain[r] / norm[r] * (get(d[i]) - from[i] / norm[r] * dot[r]);
      });
    });
  };
  prepared.references = {{"textbook", textbook}};
  return prepared;
}

const Registered kForward{{.operation = "weight_norm", .pass = "forward", .prepare = prepare_forward}};
const Registered kBackward{{.operation = "weight_norm", .pass = "backward", .prepare = prepare_backward}};

}  // namespace
}  // namespace dino::bench
