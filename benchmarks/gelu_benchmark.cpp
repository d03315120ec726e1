// The exact GELU over the hidden layer of all tokens; backward with the gradient of the bias before it.
#include "kernels/gelu/gelu.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/onednn.h"
#include "benchmarks/textbook.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

namespace dino::bench {
namespace {

template <typename T>
void textbook_forward(const GeluForward& args) {
  const T* x = args.x.as<T>();
  T* y = args.y.as<T>();
  textbook::for_elements(args.x.size(), [=](std::int64_t i) {
    const float value = textbook::get(x[i]);
    y[i] = textbook::put<T>(0.5F * value * (1 + std::erf(value * std::numbers::sqrt2_v<float> / 2)));
  });
}

Prepared prepare_forward(Bench& bench) {
  const std::int64_t rows = bench.workload().tokens(), width = bench.workload().mlp();
  const Array x = bench.values({rows, width}), y = bench.zeros(bench.dtype(), {rows, width});
  const GeluForward args{.x = x, .y = y};
  Stream& stream = bench.stream();
  Prepared prepared{
      .size = fmt::format("{} x {}", rows, width), .run = [=, &stream] { gelu_forward(args, stream); }, .outputs = {y}};
  if (!bench.on_cpu()) return prepared;
  prepared.references = {
      {"textbook", [=] { textbook::dispatch(y, [&](auto t) { textbook_forward<decltype(t)>(args); }); }},
      {"oneDNN", onednn::gelu(x, y)}};
  return prepared;
}

template <typename T>
void textbook_backward(const GeluBackward& args) {
  const std::int64_t width = args.x.extent(1), rows = args.x.extent(0);
  const T *x = args.x.as<T>(), *dy = args.dy.as<T>();
  T* dx = args.dx.as<T>();
  float* dbias = args.dbias.as<float>();
  textbook::for_elements(args.x.size(), [=](std::int64_t i) {
    const float value = textbook::get(x[i]);
    const float cdf = 0.5F * (1 + std::erf(value * std::numbers::sqrt2_v<float> / 2));
    const float density =
        std::exp(-0.5F * value * value) * std::numbers::inv_sqrtpi_v<float> / std::numbers::sqrt2_v<float>;
    dx[i] = textbook::put<T>(textbook::get(dy[i]) * (cdf + value * density));
  });
  textbook::for_rows(width, [=](std::int64_t c) { dbias[c] = 0; });
#pragma omp parallel for reduction(+ : dbias[:width])
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < width; ++c) dbias[c] += textbook::get(dx[r * width + c]);
  }
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
  if (!bench.on_cpu()) return prepared;
  const auto slope = onednn::gelu_backward(x, dy, dx), sums = onednn::column_sum(dx, dbias);
  prepared.references = {
      {"textbook", [=] { textbook::dispatch(dx, [&](auto t) { textbook_backward<decltype(t)>(args); }); }},
      {"oneDNN", [=] {
         slope();
         sums();
       }}};
  return prepared;
}

const Registered kForward{{.operation = "gelu", .pass = "forward", .prepare = prepare_forward}};
const Registered kBackward{{.operation = "gelu", .pass = "backward", .prepare = prepare_backward}};

}  // namespace
}  // namespace dino::bench
