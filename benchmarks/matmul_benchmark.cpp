#include "kernels/matmul/matmul.h"

#include "benchmarks/buffers.h"

using namespace dino;
using namespace dino::bench;

namespace {

void report_flops(benchmark::State& state, std::int64_t rows, std::int64_t outputs, std::int64_t inputs) {
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(outputs) * static_cast<double>(inputs);
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * static_cast<double>(state.iterations()) / 1e9, benchmark::Counter::kIsRate);
}

/// y = x·weightᵀ + bias, as linear layers do it.
void forward(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const DType dtype = dtype_argument(state);
  const std::int64_t rows = state.range(1), outputs = state.range(2), inputs = state.range(3);
  const Filled x(dtype, {rows, inputs});
  const Filled weight(dtype, {outputs, inputs});
  const Filled bias(DType::float32, {outputs});
  const Filled y(dtype, {rows, outputs});
  for (auto _ : state) matmul({.a = x, .b = weight, .bias = bias, .y = y, .transpose_b = true}, *stream);
  report_flops(state, rows, outputs, inputs);
}

/// The same, and the GELU of it, with the value before it kept.
void forward_gelu(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const DType dtype = dtype_argument(state);
  const std::int64_t rows = state.range(1), outputs = state.range(2), inputs = state.range(3);
  const Filled x(dtype, {rows, inputs});
  const Filled weight(dtype, {outputs, inputs});
  const Filled bias(DType::float32, {outputs});
  const Filled z(dtype, {rows, outputs});
  const Filled y(dtype, {rows, outputs});
  for (auto _ : state) {
    matmul({.a = x, .b = weight, .bias = bias, .y = y, .transpose_b = true, .gelu = true, .preactivation = z}, *stream);
  }
  report_flops(state, rows, outputs, inputs);
}

/// dx = dy·weight
void backward_x(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const DType dtype = dtype_argument(state);
  const std::int64_t rows = state.range(1), outputs = state.range(2), inputs = state.range(3);
  const Filled dy(dtype, {rows, outputs});
  const Filled weight(dtype, {outputs, inputs});
  const Filled dx(dtype, {rows, inputs});
  for (auto _ : state) matmul({.a = dy, .b = weight, .y = dx}, *stream);
  report_flops(state, rows, outputs, inputs);
}

/// dweight = dyᵀ·x, in fp32.
void backward_weight(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const DType dtype = dtype_argument(state);
  const std::int64_t rows = state.range(1), outputs = state.range(2), inputs = state.range(3);
  const Filled dy(dtype, {rows, outputs});
  const Filled x(dtype, {rows, inputs});
  const Filled dweight(DType::float32, {outputs, inputs});
  for (auto _ : state) matmul({.a = dy, .b = x, .y = dweight, .transpose_a = true}, *stream);
  report_flops(state, rows, outputs, inputs);
}

/// ViT-S/16 with four images of 2·197 + 8·37 tokens (qkv, fc1, fc2), its head, and ViT-Ti/8 at 64 pixels (fc1, fc2).
void shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"value", "rows", "out", "in"})->UseRealTime();
  for (const int value : {4, 2}) {
    benchmark->Args({value, 2760, 1152, 384})->Args({value, 2760, 1536, 384})->Args({value, 2760, 384, 1536});
    benchmark->Args({value, 40, 2048, 384})->Args({value, 40, 65536, 256});
    benchmark->Args({value, 1064, 768, 192})->Args({value, 1064, 192, 768});
  }
}

}  // namespace

BENCHMARK(forward)->Apply(shapes);
BENCHMARK(forward_gelu)
    ->ArgNames({"value", "rows", "out", "in"})
    ->Args({4, 2760, 1536, 384})
    ->Args({2, 2760, 1536, 384})
    ->UseRealTime();
BENCHMARK(backward_x)->Apply(shapes);
BENCHMARK(backward_weight)->Apply(shapes);
BENCHMARK_MAIN();
