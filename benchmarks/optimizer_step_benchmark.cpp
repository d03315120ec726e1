// AdamW with clipping, the teacher's average and the bf16 copies for a network with its head.
#include "kernels/optimizer_step/optimizer_step.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/textbook/optimizer_step.h"
#include "benchmarks/textbook/textbook.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

namespace dino::bench {
namespace {

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

Prepared prepare_norms(Bench& bench) {
  const auto table = std::make_shared<std::vector<OptimizerSegment>>(segments_of(bench.workload()));
  const std::span<const OptimizerSegment> segments = bench.table(*table);
  const std::int64_t n = table->back().offset + table->back().size;
  const Array gradient = bench.values(DType::float32, {n});
  const Array norms = bench.zeros(DType::float32, {static_cast<std::int64_t>(table->size())});
  const Array flag = bench.zeros(DType::int32, {1});
  Stream& stream = bench.stream();
  const GradientNorms args{.segments = segments, .gradient = gradient, .norms = norms, .non_finite = flag};
  Prepared prepared{
      .size = fmt::format("{}", n), .run = [=, &stream] { gradient_norms(args, stream); }, .outputs = {norms}};
  textbook::add(bench, prepared, textbook::GradientNormsSteps{args, table->front().size});
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

Prepared prepare_step(Bench& bench) {
  const auto table = std::make_shared<std::vector<OptimizerSegment>>(segments_of(bench.workload()));
  const std::int64_t n = table->back().offset + table->back().size;
  const Parameters a(bench, n, static_cast<std::int64_t>(table->size()));
  const OptimizerStep args{.segments = bench.table(*table),
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
  const auto tensors = static_cast<std::int64_t>(table->size());
  textbook::add(bench, prepared, textbook::AdamwSteps{args, table, bench.zeros(DType::float32, {tensors})});
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
