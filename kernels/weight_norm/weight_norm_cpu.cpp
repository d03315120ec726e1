#include "kernels/common/parallel.h"
#include "kernels/weight_norm/weight_norm.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/weight_norm/weight_norm_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace simd = dino::simd::HWY_NAMESPACE;

// Σ x·y, in two chains of additions.
template <typename T>
HWY_ATTR float dot(const float* x, const T* y, std::size_t n) {
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
HWY_ATTR void scale_row(const float* v, float scale, std::size_t n, T* w) {
  const simd::FloatTag d;
  const auto s = hn::Set(d, scale);
  for (std::size_t i = 0; i < n; i += hn::Lanes(d)) {
    simd::store_up_to(d, hn::Mul(s, simd::load_up_to(d, v + i, n - i)), w + i, n - i);
  }
}

// dv = a·dw - b·v
template <typename T>
HWY_ATTR void backward_row(const T* dw, float a, const float* v, float b, std::size_t n, float* dv, GradientMode mode) {
  const simd::FloatTag d;
  const auto va = hn::Set(d, a);
  const auto vb = hn::Set(d, b);
  for (std::size_t i = 0; i < n; i += hn::Lanes(d)) {
    const auto along = hn::Mul(vb, simd::load_up_to(d, v + i, n - i));
    simd::store_gradient(d, hn::MulSub(va, simd::load_up_to(d, dw + i, n - i), along), dv + i, n - i, mode);
  }
}

void normalize_rows(const WeightNorm& args) {
  visit_compute_type(args.w.dtype(), "weight_norm", [&](auto type) {
    using T = decltype(type);
    const std::int64_t width = args.v.extent(1);
    const auto n = static_cast<std::size_t>(width);
    parallel_for(args.v.extent(0), 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t k = begin; k < end; ++k) {
        const float* v = args.v.as<float>() + k * width;
        scale_row(v, args.g.as<float>()[k] / std::sqrt(dot(v, v, n)), n, args.w.as<T>() + k * width);
      }
    });
  });
}

void normalize_backward_rows(const WeightNormBackward& args) {
  visit_compute_type(args.dw.dtype(), "weight_norm_backward", [&](auto type) {
    using T = decltype(type);
    const std::int64_t width = args.v.extent(1);
    const auto n = static_cast<std::size_t>(width);
    parallel_for(args.v.extent(0), 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t k = begin; k < end; ++k) {
        const float* v = args.v.as<float>() + k * width;
        const T* dw = args.dw.as<T>() + k * width;
        const float inverse = 1.0F / std::sqrt(dot(v, v, n));
        const float dg = dot(v, dw, n) * inverse;
        if (args.dg_mode != GradientMode::ignore) {
          float& to = args.dg.as<float>()[k];
          to = args.dg_mode == GradientMode::accumulate ? to + dg : dg;
        }
        if (args.dv_mode != GradientMode::ignore) {
          const float scale = args.g.as<float>()[k] * inverse;
          backward_row(dw, scale, v, scale * dg * inverse, n, args.dv.as<float>() + k * width, args.dv_mode);
        }
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

void weight_norm(const WeightNorm& args, Stream&) {
  check_weight_norm(args);
  HWY_DYNAMIC_DISPATCH(normalize_rows)(args);
}

void weight_norm_backward(const WeightNormBackward& args, Stream&) {
  if (args.dv_mode == GradientMode::ignore && args.dg_mode == GradientMode::ignore) return;
  check_weight_norm(args);
  HWY_DYNAMIC_DISPATCH(normalize_backward_rows)(args);
}

}  // namespace dino::cpu
#endif
