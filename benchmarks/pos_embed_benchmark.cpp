#include "kernels/pos_embed/pos_embed.h"

#include "benchmarks/buffers.h"

using namespace dino;
using namespace dino::bench;

namespace {

// 14 × 14 to 6 × 6 (local crops) and to 60 × 60 (attention maps of large pictures). 16 taps, two operations each.
void resize(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const std::int64_t n = state.range(0);
  const Filled positions(DType::float32, {197, 384});
  const Filled resized(DType::float32, {1 + n * n, 384});
  for (auto _ : state) resize_pos_embed({.positions = positions, .resized = resized, .rows = n, .columns = n}, *stream);
  report_bytes(state, static_cast<std::int64_t>(17 * resized.array().size_bytes()));
}

void resize_backward(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  const std::int64_t n = state.range(0);
  const Filled d_positions(DType::float32, {197, 384});
  const Filled d_resized(DType::float32, {1 + n * n, 384});
  for (auto _ : state) {
    resize_pos_embed_backward(
        {.d_resized = d_resized, .d_positions = d_positions, .rows = n, .columns = n, .mode = GradientMode::overwrite},
        *stream);
  }
  report_bytes(state,
               static_cast<std::int64_t>(16 * d_resized.array().size_bytes() + d_positions.array().size_bytes()));
}

}  // namespace

BENCHMARK(resize)->Arg(6)->Arg(60)->UseRealTime();
BENCHMARK(resize_backward)->Arg(6)->UseRealTime();
BENCHMARK_MAIN();
