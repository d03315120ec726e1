#include "kernels/common/parallel.h"
#include "kernels/l2_normalize/l2_normalize.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/l2_normalize/l2_normalize_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace simd = dino::simd::HWY_NAMESPACE;

// Σ x·y, in two chains of additions.
template <typename T>
HWY_ATTR float dot(const T* x, const T* y, std::size_t n) {
  const simd::FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  auto even = hn::Zero(d);
  auto odd = hn::Zero(d);
  std::size_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    even = hn::MulAdd(simd::load(d, x + i), simd::load(d, y + i), even);
    odd = hn::MulAdd(simd::load(d, x + i + lanes), simd::load(d, y + i + lanes), odd);
  }
  for (; i < n; i += lanes)
    even = hn::MulAdd(simd::load_up_to(d, x + i, n - i), simd::load_up_to(d, y + i, n - i), even);
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
}

template <typename T>
HWY_ATTR void scale_row(const T* x, float scale, std::size_t n, T* y) {
  const simd::FloatTag d;
  const auto s = hn::Set(d, scale);
  for (std::size_t i = 0; i < n; i += hn::Lanes(d)) {
    simd::store_up_to(d, hn::Mul(s, simd::load_up_to(d, x + i, n - i)), y + i, n - i);
  }
}

// dx = a·dy - b·x
template <typename T>
HWY_ATTR void backward_row(const T* dy, float a, const T* x, float b, std::size_t n, T* dx, GradientMode mode) {
  const simd::FloatTag d;
  const auto va = hn::Set(d, a);
  const auto vb = hn::Set(d, b);
  for (std::size_t i = 0; i < n; i += hn::Lanes(d)) {
    const auto along = hn::Mul(vb, simd::load_up_to(d, x + i, n - i));
    simd::store_gradient(d, hn::MulSub(va, simd::load_up_to(d, dy + i, n - i), along), dx + i, n - i, mode);
  }
}

void normalize_rows(const L2Normalize& args) {
  visit_compute_type(args.x.dtype(), "l2_normalize", [&](auto type) {
    using T = decltype(type);
    const std::int64_t width = args.x.extent(1);
    const auto n = static_cast<std::size_t>(width);
    const auto eps = static_cast<float>(args.eps);
    parallel_for(args.x.extent(0), 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const T* x = args.x.as<T>() + r * width;
        const float norm = std::sqrt(dot(x, x, n));
        // Written so that NaN stays NaN.
        scale_row(x, 1.0F / (norm < eps ? eps : norm), n, args.y.as<T>() + r * width);
      }
    });
  });
}

void normalize_backward_rows(const L2NormalizeBackward& args) {
  visit_compute_type(args.x.dtype(), "l2_normalize_backward", [&](auto type) {
    using T = decltype(type);
    const std::int64_t width = args.x.extent(1);
    const auto n = static_cast<std::size_t>(width);
    const auto eps = static_cast<float>(args.eps);
    parallel_for(args.x.extent(0), 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const T* x = args.x.as<T>() + r * width;
        const T* dy = args.dy.as<T>() + r * width;
        const float norm = std::sqrt(dot(x, x, n));
        const float inverse = 1.0F / (norm < eps ? eps : norm);
        const float along = norm < eps ? 0.0F : dot(x, dy, n) * inverse * inverse * inverse;
        backward_row(dy, inverse, x, along, n, args.dx.as<T>() + r * width, args.mode);
      }
    });
  });
}

}  // namespace dino::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu {

HWY_EXPORT(normalize_rows);
HWY_EXPORT(normalize_backward_rows);

void l2_normalize(const L2Normalize& args, Stream&) {
  check_l2_normalize(args);
  HWY_DYNAMIC_DISPATCH(normalize_rows)(args);
}

void l2_normalize_backward(const L2NormalizeBackward& args, Stream&) {
  if (args.mode == GradientMode::ignore) return;
  check_l2_normalize(args);
  HWY_DYNAMIC_DISPATCH(normalize_backward_rows)(args);
}

}  // namespace dino::cpu
#endif
