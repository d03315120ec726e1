// The loss with its gradient at DINO's shapes: 4 images, 10 student views, 2 teacher views. Bytes: what the operation
// has to move, each logit read once and each gradient written once; exponentials: two per logit.
#include "kernels/dino_loss/dino_loss.h"

#include <benchmark/benchmark.h>

#include <cstring>
#include <vector>

namespace dino {
namespace {

constexpr std::int64_t kImages = 4, kStudentRows = 40, kTeacherRows = 8;

template <typename T>
std::vector<T> logits(std::int64_t size, std::uint32_t state) {
  std::vector<T> values(static_cast<std::size_t>(size));
  for (T& value : values) {
    state = state * 1664525U + 1013904223U;
    value = static_cast<T>(static_cast<float>(state >> 8) * 0x1p-24F - 0.5F);
  }
  return values;
}

template <typename T, bool kReference>
void dino_loss_benchmark(benchmark::State& state) {
  const std::int64_t columns = state.range(0);
  const auto original = logits<T>(kStudentRows * columns, 1);
  auto student = original;
  const auto teacher = logits<T>(kTeacherRows * columns, 2);
  const std::vector<float> center(static_cast<std::size_t>(columns), 0.0F);
  std::vector<float> sum(static_cast<std::size_t>(columns));
  float loss, entropy, kl;
  const Array student_array(student.data(), {kStudentRows, columns});
  const DinoLossWithGradient args{.student = student_array,
                                  .teacher = ConstArray(teacher.data(), {kTeacherRows, columns}),
                                  .center = ConstArray(center.data(), {columns}),
                                  .images = kImages,
                                  .student_gradient = student_array,
                                  .loss = Array(&loss, {1}),
                                  .teacher_entropy = Array(&entropy, {1}),
                                  .kl = Array(&kl, {1}),
                                  .teacher_sum = Array(sum.data(), {columns})};
  const auto stream = make_cpu_stream();
  for (auto _ : state) {
    state.PauseTiming();
    std::memcpy(static_cast<void*>(student.data()), original.data(), student.size() * sizeof(T));
    state.ResumeTiming();
    if constexpr (kReference) {
      reference::dino_loss_with_gradient(args);
    } else {
      dino_loss_with_gradient(args, *stream);
    }
    benchmark::DoNotOptimize(loss);
  }
  const auto iterations = static_cast<double>(state.iterations());
  const auto rate = [&](std::int64_t amount) {
    return benchmark::Counter(static_cast<double>(amount) * iterations, benchmark::Counter::kIsRate);
  };
  state.counters["bytes/s"] = rate(columns * (2 * kStudentRows + kTeacherRows) * static_cast<std::int64_t>(sizeof(T)));
  state.counters["exp/s"] = rate(columns * 2 * (kStudentRows + kTeacherRows));
}

BENCHMARK(dino_loss_benchmark<BFloat16, false>)->Arg(2048)->Arg(65536)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(dino_loss_benchmark<float, false>)->Arg(2048)->Arg(65536)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(dino_loss_benchmark<float, true>)->Arg(2048)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace dino

BENCHMARK_MAIN();
