// The optimiser step for ViT-S's 21 million parameters, next to a copy of as many bytes.
#include "kernels/common/aligned_buffer.h"
#include "kernels/common/parallel.h"
#include "kernels/optimizer_step/optimizer_step.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace dino {
namespace {

constexpr std::int64_t kParameters = 21'000'000;

/// As many tensors as ViT-S has, of its two common sizes.
std::vector<OptimizerSegment> segments() {
  std::vector<OptimizerSegment> table;
  std::int64_t offset = 0;
  while (offset < kParameters) {
    const std::int64_t size = table.size() % 3 == 0 ? 384 * 1536 : 384;
    const std::int64_t present = std::min(size, kParameters - offset);
    table.push_back({.offset = offset,
                     .size = present,
                     .step = 10,
                     .learning_rate = 1e-4,
                     .weight_decay = 0.04,
                     .decayed = size > 384,
                     .adapted = size > 384});
    offset += present;
  }
  return table;
}

/// A flat array with pages that this process has touched.
struct Flat {
  Flat(DType dtype, std::int64_t n)
      : buffer(static_cast<std::size_t>(n) * size_of(dtype)), array(buffer.data(), dtype, Shape{n}) {
    std::memset(buffer.data(), 0, buffer.size());
    if (dtype == DType::float32) std::fill_n(array.as<float>(), n, 0.01F);
  }
  AlignedBuffer buffer;
  Array array;
};

void set_bytes(benchmark::State& state, std::int64_t bytes) {
  state.counters["bytes/s"] = benchmark::Counter(static_cast<double>(bytes) * static_cast<double>(state.iterations()),
                                                 benchmark::Counter::kIsRate);
}

void copy_benchmark(benchmark::State& state) {
  const Flat from(DType::float32, kParameters * 4), to(DType::float32, kParameters * 4);
  for (auto _ : state) {
    parallel_for(kParameters * 4, 1 << 14, [&](std::int64_t begin, std::int64_t end) {
      std::memcpy(to.array.as<float>() + begin, from.array.as<float>() + begin,
                  static_cast<std::size_t>(end - begin) * 4);
    });
    benchmark::ClobberMemory();
  }
  set_bytes(state, kParameters * 4 * 8);
}

void gradient_norms_benchmark(benchmark::State& state) {
  const auto table = segments();
  const Flat gradient(DType::float32, kParameters), norms(DType::float32, static_cast<std::int64_t>(table.size()));
  const Flat flag(DType::int32, 1);
  const auto stream = make_cpu_stream();
  for (auto _ : state) {
    gradient_norms({.segments = table, .gradient = gradient.array, .norms = norms.array, .non_finite = flag.array},
                   *stream);
  }
  set_bytes(state, kParameters * 4);
}

template <OptimizerKind kKind>
void optimizer_step_benchmark(benchmark::State& state) {
  const bool low = state.range(0) != 0;
  const auto table = segments();
  const auto count = static_cast<std::int64_t>(table.size());
  const Flat gradient(DType::float32, kParameters), student(DType::float32, kParameters),
      m(DType::float32, kParameters), v(DType::float32, kParameters), teacher(DType::float32, kParameters);
  const Flat student_working(DType::bfloat16, kParameters), teacher_working(DType::bfloat16, kParameters);
  const Flat norms(DType::float32, count);
  const auto stream = make_cpu_stream();
  for (auto _ : state) {
    optimizer_step({.segments = table,
                    .kind = kKind,
                    .clip = 3,
                    .gradient = gradient.array,
                    .norms = norms.array,
                    .parameter_norms = norms.array,
                    .update_norms = norms.array,
                    .student = student.array,
                    .first_moment = m.array,
                    .second_moment = v.array,
                    .student_working = low ? student_working.array : Array(),
                    .teacher = teacher.array,
                    .teacher_working = low ? teacher_working.array : Array()},
                   *stream);
  }
  set_bytes(state, kParameters * ((kKind == OptimizerKind::adamw ? 36 : 28) + (low ? 4 : 0)));
}

BENCHMARK(copy_benchmark)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(gradient_norms_benchmark)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(optimizer_step_benchmark<OptimizerKind::adamw>)
    ->ArgName("bf16")
    ->Arg(0)
    ->Arg(1)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(optimizer_step_benchmark<OptimizerKind::sgd>)
    ->ArgName("bf16")
    ->Arg(1)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace dino

BENCHMARK_MAIN();
