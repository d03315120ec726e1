#include "kernels/common/parallel.h"
#include "kernels/gather_rows/gather_rows.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gather_rows/gather_rows_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace simd = dino::simd::HWY_NAMESPACE;

template <typename T>
HWY_ATTR void add_row(const T* x, std::size_t n, T* y) {
  const simd::FloatTag d;
  for (std::size_t i = 0; i < n; i += hn::Lanes(d)) {
    simd::store_gradient(d, simd::load_up_to(d, x + i, n - i), y + i, n - i, GradientMode::accumulate);
  }
}

void scatter_add(const GatherRowsBackward& args) {
  visit_compute_type(args.dx.dtype(), "gather_rows_backward", [&](auto type) {
    using T = decltype(type);
    const std::int64_t width = args.dx.extent(1);
    parallel_for(args.dy.extent(0), 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        T* to = args.dx.as<T>() + args.rows.as<std::int32_t>()[r] * width;
        add_row(args.dy.as<T>() + r * width, static_cast<std::size_t>(width), to);
      }
    });
  });
}

}  // namespace dino::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu {

HWY_EXPORT(scatter_add);

namespace {

void check_rows(const ConstArray& all, const ConstArray& rows) {
  for (std::int64_t r = 0; r < rows.size(); ++r) {
    const std::int32_t row = rows.as<std::int32_t>()[r];
    require(row >= 0 && row < all.extent(0), "gather_rows", "row {} is outside of x; got {}, x has shape {}", r, row,
            all.shape().to_string());
  }
}

}  // namespace

void gather_rows(const GatherRows& args, Stream&) {
  check_gather_rows(args);
  check_rows(args.x, args.rows);
  const std::size_t row_bytes = static_cast<std::size_t>(args.x.extent(1)) * size_of(args.x.dtype());
  const auto* x = static_cast<const std::byte*>(args.x.data());
  auto* y = static_cast<std::byte*>(args.y.data());
  const auto* rows = args.rows.as<std::int32_t>();
  parallel_for(args.rows.size(), 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      std::memcpy(y + static_cast<std::size_t>(r) * row_bytes, x + static_cast<std::size_t>(rows[r]) * row_bytes,
                  row_bytes);
    }
  });
}

void gather_rows_backward(const GatherRowsBackward& args, Stream&) {
  if (args.mode == GradientMode::ignore) return;
  check_gather_rows(args);
  check_rows(args.dx, args.rows);
  if (args.mode == GradientMode::accumulate) {
    HWY_DYNAMIC_DISPATCH(scatter_add)(args);
    return;
  }
  const std::size_t row_bytes = static_cast<std::size_t>(args.dx.extent(1)) * size_of(args.dx.dtype());
  const auto* dy = static_cast<const std::byte*>(args.dy.data());
  auto* dx = static_cast<std::byte*>(args.dx.data());
  const auto* rows = args.rows.as<std::int32_t>();
  parallel_for(args.dx.extent(0), 64, [&](std::int64_t begin, std::int64_t end) {
    std::memset(dx + static_cast<std::size_t>(begin) * row_bytes, 0, static_cast<std::size_t>(end - begin) * row_bytes);
  });
  for (std::int64_t r = 0; r < args.rows.size(); ++r) {
    std::memcpy(dx + static_cast<std::size_t>(rows[r]) * row_bytes, dy + static_cast<std::size_t>(r) * row_bytes,
                row_bytes);
  }
}

}  // namespace dino::cpu
#endif
