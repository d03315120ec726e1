#pragma once

#include "benchmarks/textbook/step.h"
#include "kernels/layer_norm/layer_norm.h"

namespace dino::bench::textbook {

/// As many passes over memory as the formula has steps.
struct LayerNormForwardSteps {
  LayerNormForward args;

  [[gnu::weak]] static Call on_gpu(const LayerNormForwardSteps& steps, Stream& stream);
  DType type() const { return args.x.dtype(); }

  template <typename T, typename On>
  void run(const On& on) const {
    const std::int64_t rows = args.x.extent(0), width = args.x.extent(1);
    const T *x = args.x.as<T>(), *branch = args.branch.as<T>();
    const float *scale = args.branch_scale.as<float>(), *gamma = args.gamma.as<float>(), *beta = args.beta.as<float>();
    const auto* sequence = args.row_sequence.as<std::int32_t>();
    T *sum = args.sum.as<T>(), *y = args.normalized.as<T>();
    float *mean = args.mean.as<float>(), *rstd = args.rstd.as<float>();
    const auto n = static_cast<float>(width), eps = static_cast<float>(args.eps);
    on.for_rows(rows, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      row.each(width, [&](std::int64_t c) {
        const std::int64_t i = r * width + c;
        sum[i] = put<T>(get(x[i]) + scale[sequence[r]] * get(branch[i]));
      });
    });
    on.for_rows(rows, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      mean[r] = row.sum(width, [&](std::int64_t c) { return get(sum[r * width + c]); }) / n;
    });
    on.for_rows(rows, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      const float squares = row.sum(width, [&](std::int64_t c) {
        const float difference = get(sum[r * width + c]) - mean[r];
        return difference * difference;
      });
      rstd[r] = 1 / std::sqrt(squares / n + eps);
    });
    on.for_rows(rows, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      row.each(width, [&](std::int64_t c) {
        const std::int64_t i = r * width + c;
        y[i] = put<T>((get(sum[i]) - mean[r]) * rstd[r] * gamma[c] + beta[c]);
      });
    });
  }
};

struct LayerNormBackwardSteps {
  LayerNormBackward args;

  [[gnu::weak]] static Call on_gpu(const LayerNormBackwardSteps& steps, Stream& stream);
  DType type() const { return args.dx.dtype(); }

  template <typename T, typename On>
  void run(const On& on) const {
    const std::int64_t rows = args.sum.extent(0), width = args.sum.extent(1);
    const T *sum = args.sum.as<T>(), *dy = args.d_normalized.as<T>(), *d_sum = args.d_sum.as<T>();
    const float *mean = args.mean.as<float>(), *rstd = args.rstd.as<float>(), *gamma = args.gamma.as<float>();
    const float* scale = args.branch_scale.as<float>();
    const auto* sequence = args.row_sequence.as<std::int32_t>();
    T *dx = args.dx.as<T>(), *d_branch = args.d_branch.as<T>();
    float *dgamma = args.dgamma.as<float>(), *dbeta = args.dbeta.as<float>();
    const auto n = static_cast<float>(width);
    on.sum_columns(
        rows, width,
        [=] DINO_STEP(std::int64_t r, std::int64_t c) {
          return get(dy[r * width + c]) * (get(sum[r * width + c]) - mean[r]) * rstd[r];
        },
        [=] DINO_STEP(std::int64_t c, float total) { dgamma[c] = total; });
    on.sum_columns(
        rows, width, [=] DINO_STEP(std::int64_t r, std::int64_t c) { return get(dy[r * width + c]); },
        [=] DINO_STEP(std::int64_t c, float total) { dbeta[c] = total; });
    on.for_rows(rows, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      const auto normalized = [&](std::int64_t c) { return (get(sum[r * width + c]) - mean[r]) * rstd[r]; };
      const auto g = [&](std::int64_t c) { return get(dy[r * width + c]) * gamma[c]; };
      const float mean_g = row.sum(width, g) / n;
      const float mean_gn = row.sum(width, [&](std::int64_t c) { return g(c) * normalized(c); }) / n;
      row.each(width, [&](std::int64_t c) {
        dx[r * width + c] = put<T>(rstd[r] * (g(c) - mean_g - normalized(c) * mean_gn));
      });
    });
    on.for_rows(rows, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      row.each(width, [&](std::int64_t c) {
        const std::int64_t i = r * width + c;
        dx[i] = put<T>(get(dx[i]) + get(d_sum[i]));
      });
    });
    on.for_rows(rows, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      row.each(width,
               [&](std::int64_t c) { d_branch[r * width + c] = put<T>(scale[sequence[r]] * get(dx[r * width + c])); });
    });
  }
};

}  // namespace dino::bench::textbook
