#pragma once

#include "benchmarks/textbook/row_norms.h"
#include "kernels/l2_normalize/l2_normalize.h"

namespace dino::bench::textbook {

inline constexpr float kLeastNorm = 1e-12F;

struct L2NormalizeSteps {
  L2Normalize args;
  Array norms;  // (R) fp32

  [[gnu::weak]] static Call on_gpu(const L2NormalizeSteps& steps, Stream& stream);
  DType type() const { return args.x.dtype(); }

  template <typename T, typename On>
  void run(const On& on) const {
    const std::int64_t rows = args.x.extent(0), width = args.x.extent(1);
    const T* x = args.x.as<T>();
    T* y = args.y.as<T>();
    float* norm = norms.as<float>();
    row_norms<T>(on, args.x, kLeastNorm, norm);
    on.for_rows(rows, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      row.each(width, [&](std::int64_t c) { y[r * width + c] = put<T>(get(x[r * width + c]) / norm[r]); });
    });
  }
};

struct L2NormalizeBackwardSteps {
  L2NormalizeBackward args;
  Array norms, dots;  // (R) fp32

  [[gnu::weak]] static Call on_gpu(const L2NormalizeBackwardSteps& steps, Stream& stream);
  DType type() const { return args.x.dtype(); }

  template <typename T, typename On>
  void run(const On& on) const {
    const std::int64_t rows = args.x.extent(0), width = args.x.extent(1);
    const T *x = args.x.as<T>(), *dy = args.dy.as<T>();
    T* dx = args.dx.as<T>();
    float *norm = norms.as<float>(), *dot = dots.as<float>();
    row_norms<T>(on, args.x, kLeastNorm, norm);
    on.for_rows(rows, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      dot[r] = row.sum(width, [&](std::int64_t c) { return get(x[r * width + c]) / norm[r] * get(dy[r * width + c]); });
    });
    on.for_rows(rows, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      row.each(width, [&](std::int64_t c) {
        const std::int64_t i = r * width + c;
        dx[i] = put<T>((get(dy[i]) - get(x[i]) / norm[r] * dot[r]) / norm[r]);
      });
    });
  }
};

}  // namespace dino::bench::textbook
