#pragma once

#include "benchmarks/textbook/step.h"
#include "kernels/gelu/gelu.h"

#include <numbers>

namespace dino::bench::textbook {

/// Φ(x), the distribution function of the standard normal.
DINO_STEP inline float normal_cdf(float x) { return 0.5F * (1 + std::erf(x * std::numbers::sqrt2_v<float> / 2)); }

struct GeluForwardSteps {
  GeluForward args;

  [[gnu::weak]] static Call on_gpu(const GeluForwardSteps& steps, Stream& stream);
  DType type() const { return args.x.dtype(); }

  template <typename T, typename On>
  void run(const On& on) const {
    const T* x = args.x.as<T>();
    T* y = args.y.as<T>();
    on.for_each(args.x.size(), [=] DINO_STEP(std::int64_t i) { y[i] = put<T>(get(x[i]) * normal_cdf(get(x[i]))); });
  }
};

struct GeluBackwardSteps {
  GeluBackward args;

  [[gnu::weak]] static Call on_gpu(const GeluBackwardSteps& steps, Stream& stream);
  DType type() const { return args.x.dtype(); }

  template <typename T, typename On>
  void run(const On& on) const {
    const std::int64_t rows = args.x.extent(0), width = args.x.extent(1);
    const T *x = args.x.as<T>(), *dy = args.dy.as<T>();
    T* dx = args.dx.as<T>();
    float* dbias = args.dbias.as<float>();
    on.for_each(args.x.size(), [=] DINO_STEP(std::int64_t i) {
      const float value = get(x[i]);
      const float density =
          std::exp(-0.5F * value * value) * std::numbers::inv_sqrtpi_v<float> / std::numbers::sqrt2_v<float>;
      dx[i] = put<T>(get(dy[i]) * (normal_cdf(value) + value * density));
    });
    on.sum_columns(
        rows, width, [=] DINO_STEP(std::int64_t r, std::int64_t c) { return get(dx[r * width + c]); },
        [=] DINO_STEP(std::int64_t c, float sum) { dbias[c] = sum; });
  }
};

}  // namespace dino::bench::textbook
