#pragma once

#include "benchmarks/textbook/row_norms.h"
#include "kernels/weight_norm/weight_norm.h"

namespace dino::bench::textbook {

struct WeightNormSteps {
  WeightNorm args;
  Array norms;  // (K) fp32

  [[gnu::weak]] static Call on_gpu(const WeightNormSteps& steps, Stream& stream);
  DType type() const { return args.w.dtype(); }

  template <typename T, typename On>
  void run(const On& on) const {
    const std::int64_t width = args.v.extent(1);
    const float *v = args.v.as<float>(), *g = args.g.as<float>();
    T* w = args.w.as<T>();
    float* norm = norms.as<float>();
    row_norms<float>(on, args.v, 0, norm);
    on.for_rows(args.v.extent(0), width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      row.each(width, [&](std::int64_t c) { w[r * width + c] = put<T>(g[r] * v[r * width + c] / norm[r]); });
    });
  }
};

/// dv alone.
struct WeightNormBackwardSteps {
  WeightNormBackward args;
  Array norms, dots;  // (K) fp32

  [[gnu::weak]] static Call on_gpu(const WeightNormBackwardSteps& steps, Stream& stream);
  DType type() const { return args.dw.dtype(); }

  template <typename T, typename On>
  void run(const On& on) const {
    const std::int64_t rows = args.v.extent(0), width = args.v.extent(1);
    const float *v = args.v.as<float>(), *g = args.g.as<float>();
    const T* dw = args.dw.as<T>();
    float *dv = args.dv.as<float>(), *norm = norms.as<float>(), *dot = dots.as<float>();
    row_norms<float>(on, args.v, 0, norm);
    on.for_rows(rows, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      dot[r] = row.sum(width, [&](std::int64_t c) { return v[r * width + c] / norm[r] * get(dw[r * width + c]); });
    });
    on.for_rows(rows, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      row.each(width, [&](std::int64_t c) {
        const std::int64_t i = r * width + c;
        dv[i] = g[r] / norm[r] * (get(dw[i]) - v[i] / norm[r] * dot[r]);
      });
    });
  }
};

}  // namespace dino::bench::textbook
