// GFLOP/s count the products only: 4 N² D a head forward, 10 N² D backward.
#include "kernels/attention/attention.h"
#include "kernels/attention/cls_attention.h"
#include "kernels/common/aligned_buffer.h"
#include "kernels/common/error.h"

#include <benchmark/benchmark.h>

#include <cmath>
#include <vector>

using namespace dino;

namespace {

enum class Shapes { vit_small, vit_tiny, only_197, only_65, only_37, only_17, only_1024 };

/// Sequences and random numbers for one shape of batch; D = 64.
struct Problem {
  Problem(Shapes shapes, DType dtype, std::int64_t parts) : dtype(dtype), heads(shapes == Shapes::vit_tiny ? 3 : 6) {
    const auto add = [&](int count, std::int32_t length) {
      for (int i = 0; i < count; ++i) {
        offsets.push_back(offsets.back() + length);
        square += static_cast<double>(length) * length;
      }
      max_length = std::max(max_length, length);
    };
    switch (shapes) {
      case Shapes::vit_small: add(8, 197), add(32, 37); break;
      case Shapes::vit_tiny: add(8, 65), add(32, 17); break;
      case Shapes::only_197: add(4, 197); break;
      case Shapes::only_65: add(32, 65); break;
      case Shapes::only_37: add(64, 37); break;
      case Shapes::only_17: add(128, 17); break;
      case Shapes::only_1024: add(1, 1024); break;
    }
    width = heads * 64;
    rows = offsets.back();
    packed = make(rows * parts * width);
    out = make(rows * width);
    d_out = make(rows * width);
    d_packed = make(rows * parts * width);
    logsumexp = AlignedBuffer(static_cast<std::size_t>(rows * heads) * sizeof(float));
  }

  AlignedBuffer make(std::int64_t size) const {
    AlignedBuffer buffer(static_cast<std::size_t>(size) * size_of(dtype));
    const Array array(buffer.data(), dtype, {size});
    for (std::int64_t i = 0; i < size; ++i) store_double(array, i, std::sin(static_cast<double>(i * i % 9973)));
    return buffer;
  }
  Array view(const AlignedBuffer& buffer, const Shape& shape) const { return {buffer.data(), dtype, shape}; }
  ConstArray offsets_view() const { return {offsets.data(), Shape{static_cast<std::int64_t>(offsets.size())}}; }
  Array statistics() const { return {logsumexp.data(), DType::float32, {heads, rows}}; }

  DType dtype;
  int heads;
  std::vector<std::int32_t> offsets{0};
  std::int32_t max_length = 0;
  double square = 0;
  std::int64_t width = 0;
  std::int64_t rows = 0;
  AlignedBuffer packed, out, d_out, d_packed, logsumexp;
};

void count_flops(benchmark::State& state, double flops) {
  state.counters["FLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

AttentionForward forward_args(const Problem& p) {
  return {.qkv = p.view(p.packed, {p.rows, 3 * p.width}),
          .offsets = p.offsets_view(),
          .max_length = p.max_length,
          .heads = p.heads,
          .out = p.view(p.out, {p.rows, p.width}),
          .logsumexp = p.statistics()};
}

void attention_forward_at(benchmark::State& state, Shapes shapes, DType dtype) {
  const Problem p(shapes, dtype, 3);
  const auto stream = make_cpu_stream();
  for (auto _ : state) attention_forward(forward_args(p), *stream);
  count_flops(state, 4 * p.square * static_cast<double>(p.width));
}

void attention_backward_at(benchmark::State& state, Shapes shapes, DType dtype) {
  const Problem p(shapes, dtype, 3);
  const auto stream = make_cpu_stream();
  attention_forward(forward_args(p), *stream);
  const AttentionBackward args{.qkv = p.view(p.packed, {p.rows, 3 * p.width}),
                               .offsets = p.offsets_view(),
                               .max_length = p.max_length,
                               .heads = p.heads,
                               .out = p.view(p.out, {p.rows, p.width}),
                               .logsumexp = p.statistics(),
                               .d_out = p.view(p.d_out, {p.rows, p.width}),
                               .d_qkv = p.view(p.d_packed, {p.rows, 3 * p.width}),
                               .mode = GradientMode::overwrite};
  for (auto _ : state) attention_backward(args, *stream);
  count_flops(state, 10 * p.square * static_cast<double>(p.width));
}

void cls_attention_at(benchmark::State& state, Shapes shapes, DType dtype, bool backward) {
  const Problem p(shapes, dtype, 2);
  const auto stream = make_cpu_stream();
  const Shape queries{static_cast<std::int64_t>(p.offsets.size()) - 1, p.width};
  const AlignedBuffer q = p.make(queries.size());
  const AlignedBuffer dq = p.make(queries.size());
  const Array kv = p.view(p.packed, {p.rows, 2 * p.width});
  const auto forward = [&] {
    cls_attention_forward({.q = p.view(q, queries),
                           .kv = kv,
                           .offsets = p.offsets_view(),
                           .max_length = p.max_length,
                           .heads = p.heads,
                           .out = p.view(p.out, queries),
                           .probabilities = p.statistics()},
                          *stream);
  };
  forward();
  for (auto _ : state) {
    if (!backward) {
      forward();
      continue;
    }
    cls_attention_backward({.q = p.view(q, queries),
                            .kv = kv,
                            .offsets = p.offsets_view(),
                            .max_length = p.max_length,
                            .heads = p.heads,
                            .probabilities = p.statistics(),
                            .d_out = p.view(p.d_out, queries),
                            .dq = p.view(dq, queries),
                            .dq_mode = GradientMode::overwrite,
                            .d_kv = p.view(p.d_packed, kv.shape()),
                            .d_kv_mode = GradientMode::overwrite},
                           *stream);
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kv.size_bytes()) * (backward ? 2 : 1));
}

#define DINO_SHAPES(function, ...)                                                                            \
  BENCHMARK_CAPTURE(function, vit_small_fp32, Shapes::vit_small, DType::float32 __VA_OPT__(, ) __VA_ARGS__);  \
  BENCHMARK_CAPTURE(function, vit_small_bf16, Shapes::vit_small, DType::bfloat16 __VA_OPT__(, ) __VA_ARGS__); \
  BENCHMARK_CAPTURE(function, vit_tiny_fp32, Shapes::vit_tiny, DType::float32 __VA_OPT__(, ) __VA_ARGS__);    \
  BENCHMARK_CAPTURE(function, length_197, Shapes::only_197, DType::float32 __VA_OPT__(, ) __VA_ARGS__);       \
  BENCHMARK_CAPTURE(function, length_65, Shapes::only_65, DType::float32 __VA_OPT__(, ) __VA_ARGS__);         \
  BENCHMARK_CAPTURE(function, length_37, Shapes::only_37, DType::float32 __VA_OPT__(, ) __VA_ARGS__);         \
  BENCHMARK_CAPTURE(function, length_17, Shapes::only_17, DType::float32 __VA_OPT__(, ) __VA_ARGS__);         \
  BENCHMARK_CAPTURE(function, length_1024, Shapes::only_1024, DType::float32 __VA_OPT__(, ) __VA_ARGS__)

DINO_SHAPES(attention_forward_at);
DINO_SHAPES(attention_backward_at);
BENCHMARK_CAPTURE(cls_attention_at, forward_fp32, Shapes::vit_small, DType::float32, false);
BENCHMARK_CAPTURE(cls_attention_at, forward_bf16, Shapes::vit_small, DType::bfloat16, false);
BENCHMARK_CAPTURE(cls_attention_at, backward_fp32, Shapes::vit_small, DType::float32, true);
BENCHMARK_CAPTURE(cls_attention_at, backward_bf16, Shapes::vit_small, DType::bfloat16, true);

}  // namespace

BENCHMARK_MAIN();
