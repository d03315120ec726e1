#pragma once

#include "benchmarks/textbook/step.h"
#include "kernels/column_sum/column_sum.h"

namespace dino::bench::textbook {

struct ColumnSumSteps {
  ColumnSum args;

  [[gnu::weak]] static Call on_gpu(const ColumnSumSteps& steps, Stream& stream);
  DType type() const { return args.x.dtype(); }

  template <typename T, typename On>
  void run(const On& on) const {
    const std::int64_t width = args.x.extent(1);
    const T* x = args.x.as<T>();
    float* y = args.y.as<float>();
    on.sum_columns(
        args.x.extent(0), width, [=] DINO_STEP(std::int64_t r, std::int64_t c) { return get(x[r * width + c]); },
        [=] DINO_STEP(std::int64_t c, float sum) { y[c] = sum; });
  }
};

}  // namespace dino::bench::textbook
