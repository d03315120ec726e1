// AdamW with clipping, the teacher's average and the bf16 copies for a network with its head.
#include "kernels/optimizer_step/optimizer_step.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/textbook.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <vector>

namespace dino::bench {
namespace {

using textbook::get;
using textbook::put;

/// The largest arrays of a ViT in turn with its vectors, up to the parameters of its blocks and the last layer.
std::vector<OptimizerSegment> segments_of(const Workload& w) {
  const std::int64_t parameters = 12 * w.depth * w.width * w.width + w.prototypes * w.bottleneck;
  std::vector<OptimizerSegment> table;
  for (std::int64_t offset = 0; offset < parameters;) {
    const bool matrix = table.size() % 2 == 0;
    const std::int64_t size = std::min(matrix ? w.mlp() * w.width : w.width, parameters - offset);
    table.push_back({.offset = offset,
                     .size = size,
                     .step = 10,
                     .learning_rate = 1e-4,
                     .weight_decay = 0.04,
                     .decayed = matrix,
                     .adapted = matrix});
    offset += size;
  }
  return table;
}

/// The table where the kernels read it; it lives as long as the benchmark.
std::span<const OptimizerSegment> on_device(Bench& bench, const std::vector<OptimizerSegment>& table) {
  const auto bytes = static_cast<std::int64_t>(table.size() * sizeof(OptimizerSegment));
  const Array memory = bench.zeros(DType::uint8, {bytes});
  bench.stream().copy_from_host(memory.data(), table.data(), memory.size_bytes());
  return {static_cast<const OptimizerSegment*>(memory.data()), table.size()};
}

Prepared prepare_norms(Bench& bench) {
  const auto table = std::make_shared<std::vector<OptimizerSegment>>(segments_of(bench.workload()));
  const std::span<const OptimizerSegment> segments = on_device(bench, *table);
  const std::int64_t n = table->back().offset + table->back().size;
  const Array gradient = bench.values(DType::float32, {n});
  const Array norms = bench.zeros(DType::float32, {static_cast<std::int64_t>(table->size())});
  const Array flag = bench.zeros(DType::int32, {1});
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{}", n),
                    .run =
                        [=, &stream] {
                          gradient_norms(
                              {.segments = segments, .gradient = gradient, .norms = norms, .non_finite = flag}, stream);
                        },
                    .outputs = {norms}};
  if (!bench.on_cpu()) return prepared;
  const auto textbook = [=] {
    for (std::size_t s = 0; s < table->size(); ++s) {
      const float* g = gradient.as<float>() + (*table)[s].offset;
      const std::int64_t size = (*table)[s].size;
      double sum = 0;
#pragma omp parallel for reduction(+ : sum)
      for (std::int64_t i = 0; i < size; ++i) sum += static_cast<double>(g[i]) * static_cast<double>(g[i]);
      norms.as<float>()[s] = static_cast<float>(std::sqrt(sum));
    }
  };
  prepared.references = {{"textbook", textbook}};
  return prepared;
}

/// What is read and written. Each call goes on from the state that the last one left, which costs it the same.
struct Parameters {
  explicit Parameters(Bench& bench, std::int64_t n, std::int64_t tensors)
      : gradient(bench.values(DType::float32, {n})),
        norms(bench.values(DType::float32, {tensors})),
        student(bench.values(DType::float32, {n})),
        m(bench.zeros(DType::float32, {n})),
        v(bench.zeros(DType::float32, {n})),
        teacher(bench.values(DType::float32, {n})) {
    if (bench.dtype() != DType::bfloat16) return;
    student_working = bench.zeros(DType::bfloat16, {n});
    teacher_working = bench.zeros(DType::bfloat16, {n});
  }
  Array gradient, norms, student, m, v, teacher, student_working, teacher_working;
};

/// Decay, clipping, both moments, the update, the average and the copies, one after the other.
void textbook_step(const OptimizerStep& args) {
  for (std::size_t s = 0; s < args.segments.size(); ++s) {
    const OptimizerSegment& segment = args.segments[s];
    const std::int64_t at = segment.offset, n = segment.size;
    const float* gradient = args.gradient.as<float>() + at;
    float *p = args.student.as<float>() + at, *m = args.first_moment.as<float>() + at;
    float *v = args.second_moment.as<float>() + at, *t = args.teacher.as<float>() + at;
    const auto clip = static_cast<float>(clip_factor(args.clip, static_cast<double>(args.norms.as<float>()[s])));
    const auto rate = static_cast<float>(segment.learning_rate), beta1 = static_cast<float>(args.beta1),
               beta2 = static_cast<float>(args.beta2), eps = static_cast<float>(args.eps),
               momentum = static_cast<float>(segment.teacher_momentum);
    const float decay = segment.decayed ? 1 - rate * static_cast<float>(segment.weight_decay) : 1;
    const auto step = static_cast<float>(segment.step);
    const float correction1 = 1 - std::pow(beta1, step), correction2 = std::sqrt(1 - std::pow(beta2, step));
    textbook::for_elements(n, [=](std::int64_t i) { p[i] *= decay; });
    textbook::for_elements(n, [=](std::int64_t i) { m[i] = beta1 * m[i] + (1 - beta1) * clip * gradient[i]; });
    textbook::for_elements(
        n, [=](std::int64_t i) { v[i] = beta2 * v[i] + (1 - beta2) * (clip * gradient[i]) * (clip * gradient[i]); });
    textbook::for_elements(
        n, [=](std::int64_t i) { p[i] -= rate / correction1 * m[i] / (std::sqrt(v[i]) / correction2 + eps); });
    textbook::for_elements(n, [=](std::int64_t i) { t[i] = momentum * t[i] + (1 - momentum) * p[i]; });
    if (!args.student_working) continue;
    auto* p16 = args.student_working.as<BFloat16>() + at;
    auto* t16 = args.teacher_working.as<BFloat16>() + at;
    textbook::for_elements(n, [=](std::int64_t i) { p16[i] = BFloat16(p[i]); });
    textbook::for_elements(n, [=](std::int64_t i) { t16[i] = BFloat16(t[i]); });
  }
}

Prepared prepare_step(Bench& bench) {
  const auto table = std::make_shared<std::vector<OptimizerSegment>>(segments_of(bench.workload()));
  const std::int64_t n = table->back().offset + table->back().size;
  const Parameters a(bench, n, static_cast<std::int64_t>(table->size()));
  const OptimizerStep args{.segments = on_device(bench, *table),
                           .clip = 3,
                           .gradient = a.gradient,
                           .norms = a.norms,
                           .student = a.student,
                           .first_moment = a.m,
                           .second_moment = a.v,
                           .student_working = a.student_working,
                           .teacher = a.teacher,
                           .teacher_working = a.teacher_working};
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{}", n),
                    .run = [=, &stream] { optimizer_step(args, stream); },
                    .outputs = {a.student, a.m, a.v, a.teacher}};
  if (bench.on_cpu()) prepared.references = {{"textbook", [=] { textbook_step(args); }}};
  const Array student = a.student, teacher = a.teacher, m = a.m, v = a.v;
  const Array first_student = bench.copy(student), first_teacher = bench.copy(teacher);
  prepared.restore = [=, &stream] {
    stream.copy(student.data(), first_student.data(), student.size_bytes());
    stream.copy(teacher.data(), first_teacher.data(), teacher.size_bytes());
    stream.zero(m.data(), m.size_bytes());
    stream.zero(v.data(), v.size_bytes());
  };
  return prepared;
}

const Registered kNorms{{"optimizer_step", "gradient norms", prepare_norms, {DType::float32}}};
const Registered kAdamw{{.operation = "optimizer_step", .pass = "AdamW", .prepare = prepare_step}};

}  // namespace
}  // namespace dino::bench
