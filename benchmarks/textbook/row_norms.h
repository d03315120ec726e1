#pragma once

#include "benchmarks/textbook/step.h"

namespace dino::bench::textbook {

/// norms[r] = max(‖x[r]‖, least).
template <typename T, typename On>
void row_norms(const On& on, const ConstArray& x, float least, float* norms) {
  const std::int64_t width = x.extent(1);
  const T* from = x.as<T>();
  on.for_rows(x.extent(0), width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
    const float sum = row.sum(width, [&](std::int64_t c) {
      const float value = get(from[r * width + c]);
      return value * value;
    });
    norms[r] = std::fmax(std::sqrt(sum), least);
  });
}

}  // namespace dino::bench::textbook
