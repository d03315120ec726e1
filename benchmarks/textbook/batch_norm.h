#pragma once

#include "benchmarks/textbook/step.h"

namespace dino::bench::textbook {

/// Mean, deviation and y of one process's rows.
struct BatchNormForwardSteps {
  Array x;                  // (R, C)
  Array gamma, beta;        // (C) fp32
  Array y;                  // (R, C)
  Array mean, inverse_std;  // (C) fp32

  [[gnu::weak]] static Call on_gpu(const BatchNormForwardSteps& steps, Stream& stream);
  DType type() const { return x.dtype(); }

  template <typename T, typename On>
  void run(const On& on) const {
    const std::int64_t rows = x.extent(0), width = x.extent(1);
    const T* from = x.as<T>();
    T* to = y.as<T>();
    float *means = mean.as<float>(), *inverses = inverse_std.as<float>();
    const float *gains = gamma.as<float>(), *offsets = beta.as<float>();
    const auto n = static_cast<float>(rows);
    on.sum_columns(
        rows, width, [=] DINO_STEP(std::int64_t r, std::int64_t c) { return get(from[r * width + c]); },
        [=] DINO_STEP(std::int64_t c, float sum) { means[c] = sum / n; });
    on.sum_columns(
        rows, width,
        [=] DINO_STEP(std::int64_t r, std::int64_t c) {
          const float difference = get(from[r * width + c]) - means[c];
          return difference * difference;
        },
        [=] DINO_STEP(std::int64_t c, float squares) { inverses[c] = 1 / std::sqrt(squares / n + 1e-5F); });
    on.for_rows(rows, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      row.each(width, [&](std::int64_t c) {
        to[r * width + c] = put<T>(gains[c] * (get(from[r * width + c]) - means[c]) * inverses[c] + offsets[c]);
      });
    });
  }
};

struct BatchNormBackwardSteps {
  Array x, dy;                     // (R, C)
  Array mean, inverse_std, gamma;  // (C) fp32
  Array sums;                      // (2, C) fp32: of dy and of dy · x̂
  Array dx;                        // (R, C)

  [[gnu::weak]] static Call on_gpu(const BatchNormBackwardSteps& steps, Stream& stream);
  DType type() const { return x.dtype(); }

  template <typename T, typename On>
  void run(const On& on) const {
    const std::int64_t rows = x.extent(0), width = x.extent(1);
    const T *from = x.as<T>(), *d = dy.as<T>();
    T* to = dx.as<T>();
    const float *means = mean.as<float>(), *inverses = inverse_std.as<float>(), *gains = gamma.as<float>();
    float *sum = sums.as<float>(), *sum_normalized = sum + width;
    const auto n = static_cast<float>(rows);
    on.sum_columns(
        rows, width, [=] DINO_STEP(std::int64_t r, std::int64_t c) { return get(d[r * width + c]); },
        [=] DINO_STEP(std::int64_t c, float total) { sum[c] = total; });
    on.sum_columns(
        rows, width,
        [=] DINO_STEP(std::int64_t r, std::int64_t c) {
          return get(d[r * width + c]) * (get(from[r * width + c]) - means[c]) * inverses[c];
        },
        [=] DINO_STEP(std::int64_t c, float total) { sum_normalized[c] = total; });
    on.for_rows(rows, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      row.each(width, [&](std::int64_t c) {
        const std::int64_t i = r * width + c;
        const float normalized = (get(from[i]) - means[c]) * inverses[c];
        to[i] = put<T>(gains[c] * inverses[c] * (get(d[i]) - sum[c] / n - normalized * sum_normalized[c] / n));
      });
    });
  }
};

}  // namespace dino::bench::textbook
