#pragma once

#include "benchmarks/textbook/step.h"
#include "kernels/dino_loss/dino_loss.h"

namespace dino::bench::textbook {

/// Teacher's softmax, student's softmax and its logarithm, the sum over the pairs and the gradient, each its own pass;
/// the probabilities lie in arrays of the logits' size.
struct DinoLossSteps {
  DinoLossWithGradient args;
  Array teacher, student;  // (G·B, K) and (V·B, K) fp32
  Array row_losses;        // (V·B) fp32

  [[gnu::weak]] static Call on_gpu(const DinoLossSteps& steps, Stream& stream);
  DType type() const { return args.student.dtype(); }

  /// to = softmax((logits - center) / temperature); `center` may be null.
  template <typename T, typename On>
  static void softmax(const On& on, const ConstArray& logits, const float* center, double temperature,
                      const Array& to) {
    const std::int64_t rows = logits.extent(0), columns = logits.extent(1);
    const T* from = logits.as<T>();
    float* p = to.as<float>();
    const auto t = static_cast<float>(temperature);
    on.for_rows(rows, columns, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      row.each(columns, [&](std::int64_t k) {
        p[r * columns + k] = (get(from[r * columns + k]) - (center == nullptr ? 0 : center[k])) / t;
      });
    });
    on.for_rows(rows, columns, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      float* own = p + r * columns;
      const float largest = row.max(columns, [&](std::int64_t k) { return own[k]; });
      row.each(columns, [&](std::int64_t k) { own[k] = std::exp(own[k] - largest); });
      const double sum = row.sum(columns, [&](std::int64_t k) { return static_cast<double>(own[k]); });
      row.each(columns, [&](std::int64_t k) { own[k] /= static_cast<float>(sum); });
    });
  }

  template <typename T, typename On>
  void run(const On& on) const {
    const DinoLossSizes sizes = dino_loss_sizes(args);
    const std::int64_t images = sizes.images, globals = sizes.teacher_views, columns = sizes.columns;
    const std::int64_t rows = sizes.student_views * images;
    softmax<T>(on, args.teacher, args.center.as<float>(), args.teacher_temperature, teacher);
    softmax<T>(on, args.student, nullptr, args.student_temperature, student);

    const float *t = teacher.as<float>(), *p = student.as<float>();
    float *row_loss = row_losses.as<float>(), *loss = args.loss.as<float>();
    on.for_rows(rows, columns, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      double sum = 0;
      for (std::int64_t i = 0; i < globals; ++i) {
        if (i == r / images) continue;
        const float* partner = t + (i * images + r % images) * columns;
        sum -= row.sum(columns,
                       [&](std::int64_t k) { return static_cast<double>(partner[k] * std::log(p[r * columns + k])); });
      }
      row_loss[r] = static_cast<float>(sum);
    });
    const auto count = static_cast<double>(sizes.pairs() * images);
    on.for_rows(1, rows, [=] DINO_STEP(const typename On::Row& row, std::int64_t) {
      const double sum = row.sum(rows, [&](std::int64_t r) { return static_cast<double>(row_loss[r]); });
      *loss = static_cast<float>(sum / count);
    });

    T* gradient = args.student_gradient.as<T>();
    const auto scale = static_cast<float>(args.gradient_scale / count / args.student_temperature);
    on.for_rows(rows, columns, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      row.each(columns, [&](std::int64_t k) {
        float sum = 0;
        for (std::int64_t i = 0; i < globals; ++i) {
          if (i != r / images) sum += p[r * columns + k] - t[(i * images + r % images) * columns + k];
        }
        gradient[r * columns + k] = put<T>(scale * sum);
      });
    });
    const T* logits = args.teacher.as<T>();
    float* sums = args.teacher_sum.as<float>();
    on.for_each(columns, [=] DINO_STEP(std::int64_t k) {
      float sum = 0;
      for (std::int64_t r = 0; r < globals * images; ++r) sum += get(logits[r * columns + k]);
      sums[k] = sum;
    });
  }
};

}  // namespace dino::bench::textbook
