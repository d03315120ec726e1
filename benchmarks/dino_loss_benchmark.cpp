// The loss with its gradient for all views: each logit is to be read once, each gradient written once.
#include "kernels/dino_loss/dino_loss.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/cudnn_reference.h"
#include "benchmarks/textbook.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace dino::bench {
namespace {

using textbook::get;
using textbook::put;

/// Teacher's softmax, student's softmax and its logarithm, the sum over the pairs and the gradient, each its own pass;
/// the probabilities lie in arrays of the logits' size.
template <typename T>
void textbook_loss(const DinoLossWithGradient& args, float* teacher, float* student) {
  const auto [images, views, globals, columns] = dino_loss_sizes(args);
  const auto softmax = [columns = columns](const T* logits, const float* center, float temperature, std::int64_t rows,
                                           float* to) {
    textbook::for_rows(rows, [=](std::int64_t r) {
      for (std::int64_t k = 0; k < columns; ++k)
        to[r * columns + k] = (get(logits[r * columns + k]) - (center == nullptr ? 0 : center[k])) / temperature;
    });
    textbook::for_rows(rows, [=](std::int64_t r) {
      float* row = to + r * columns;
      const float largest = *std::max_element(row, row + columns);
      for (std::int64_t k = 0; k < columns; ++k) row[k] = std::exp(row[k] - largest);
      double sum = 0;
      for (std::int64_t k = 0; k < columns; ++k) sum += static_cast<double>(row[k]);
      for (std::int64_t k = 0; k < columns; ++k) row[k] /= static_cast<float>(sum);
    });
  };
  const auto student_temperature = static_cast<float>(args.student_temperature);
  softmax(args.teacher.as<T>(), args.center.as<float>(), static_cast<float>(args.teacher_temperature), globals * images,
          teacher);
  softmax(args.student.as<T>(), nullptr, student_temperature, views * images, student);
  const double count = static_cast<double>((views - 1) * globals * images);
  double loss = 0;
#pragma omp parallel for reduction(+ : loss)
  for (std::int64_t r = 0; r < views * images; ++r) {
    for (std::int64_t i = 0; i < globals; ++i) {
      if (i == r / images) continue;
      const float *t = teacher + (i * images + r % images) * columns, *p = student + r * columns;
      for (std::int64_t k = 0; k < columns; ++k) loss -= static_cast<double>(t[k] * std::log(p[k]));
    }
  }
  *args.loss.as<float>() = static_cast<float>(loss / count);
  T* gradient = args.student_gradient.as<T>();
  const auto scale = static_cast<float>(args.gradient_scale / count) / student_temperature;
  textbook::for_rows(views * images, [=, images = images, globals = globals, columns = columns](std::int64_t r) {
    for (std::int64_t k = 0; k < columns; ++k) {
      float sum = 0;
      for (std::int64_t i = 0; i < globals; ++i) {
        if (i != r / images) sum += student[r * columns + k] - teacher[(i * images + r % images) * columns + k];
      }
      gradient[r * columns + k] = put<T>(scale * sum);
    }
  });
  float* column_sums = args.teacher_sum.as<float>();
  const T* logits = args.teacher.as<T>();
  textbook::for_elements(args.teacher_sum.size(),
                         [=, images = images, globals = globals, columns = columns](std::int64_t k) {
                           float sum = 0;
                           for (std::int64_t r = 0; r < globals * images; ++r) sum += get(logits[r * columns + k]);
                           column_sums[k] = sum;
                         });
}

Prepared prepare(Bench& bench) {
  const Workload& w = bench.workload();
  const std::int64_t rows = w.sequences(), teacher_rows = w.images * w.globals;
  const DinoLossWithGradient args{.student = bench.values({rows, w.prototypes}),
                                  .teacher = bench.values({teacher_rows, w.prototypes}),
                                  .center = bench.values(DType::float32, {w.prototypes}),
                                  .images = static_cast<int>(w.images),
                                  .student_gradient = bench.zeros(bench.dtype(), {rows, w.prototypes}),
                                  .loss = bench.zeros(DType::float32, {1}),
                                  .teacher_entropy = bench.zeros(DType::float32, {1}),
                                  .kl = bench.zeros(DType::float32, {1}),
                                  .teacher_sum = bench.zeros(DType::float32, {w.prototypes})};
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} + {} x {}", rows, teacher_rows, w.prototypes),
                    .run = [=, &stream] { dino_loss_with_gradient(args, stream); },
                    .outputs = {args.loss, args.student_gradient, args.teacher_sum}};
  cudnn::add(bench, prepared, "cuDNN softmax, gradient alone", &cudnn::dino_loss_gradient, args,
             {args.student_gradient});
  if (!bench.on_cpu()) return prepared;
  const Array teacher = bench.zeros(DType::float32, {teacher_rows, w.prototypes});
  const Array student = bench.zeros(DType::float32, {rows, w.prototypes});
  const auto textbook = [=] {
    textbook::dispatch(args.student_gradient,
                       [&](auto t) { textbook_loss<decltype(t)>(args, teacher.as<float>(), student.as<float>()); });
  };
  prepared.references = {{"textbook", textbook}};
  return prepared;
}

const Registered kLoss{{.operation = "dino_loss", .pass = "with gradient", .prepare = prepare}};

}  // namespace
}  // namespace dino::bench
