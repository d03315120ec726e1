#pragma once

#include "benchmarks/textbook/step.h"
#include "kernels/gather_rows/gather_rows.h"

namespace dino::bench::textbook {

struct GatherRowsSteps {
  GatherRows args;

  [[gnu::weak]] static Call on_gpu(const GatherRowsSteps& steps, Stream& stream);
  DType type() const { return args.x.dtype(); }

  template <typename T, typename On>
  void run(const On& on) const {
    const std::int64_t width = args.x.extent(1);
    const T* x = args.x.as<T>();
    T* y = args.y.as<T>();
    const auto* rows = args.rows.as<std::int32_t>();
    on.for_rows(args.rows.size(), width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      row.each(width, [&](std::int64_t c) { y[r * width + c] = x[rows[r] * width + c]; });
    });
  }
};

/// Zeros, then the rows.
struct GatherRowsBackwardSteps {
  GatherRowsBackward args;

  [[gnu::weak]] static Call on_gpu(const GatherRowsBackwardSteps& steps, Stream& stream);
  DType type() const { return args.dx.dtype(); }

  template <typename T, typename On>
  void run(const On& on) const {
    const std::int64_t width = args.dx.extent(1);
    const T* dy = args.dy.as<T>();
    T* dx = args.dx.as<T>();
    const auto* rows = args.rows.as<std::int32_t>();
    on.for_each(args.dx.size(), [=] DINO_STEP(std::int64_t i) { dx[i] = put<T>(0); });
    on.for_rows(args.rows.size(), width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      row.each(width, [&](std::int64_t c) { dx[rows[r] * width + c] = dy[r * width + c]; });
    });
  }
};

}  // namespace dino::bench::textbook
