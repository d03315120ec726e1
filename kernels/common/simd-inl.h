// Highway helpers shared by the CPU kernels. Included once per instruction set, after hwy/foreach_target.h and
// hwy/highway.h; see kernels/cast/cast_cpu.cpp for the pattern.
#if defined(DINO_KERNELS_COMMON_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DINO_KERNELS_COMMON_SIMD_INL_H_
#undef DINO_KERNELS_COMMON_SIMD_INL_H_
#else
#define DINO_KERNELS_COMMON_SIMD_INL_H_
#endif

#include "kernels/common/dtype.h"
#include "kernels/common/gradient_mode.h"

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace dino::simd::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using FloatVector = hn::Vec<FloatTag>;

/// Lanes(d) consecutive elements as fp32, from any address.
HWY_INLINE FloatVector load(FloatTag d, const float* p) { return hn::LoadU(d, p); }
HWY_INLINE FloatVector load(FloatTag d, const BFloat16* p) {
  const hn::Rebind<std::uint16_t, FloatTag> d16;
  const hn::RebindToUnsigned<FloatTag> d32;
  const auto bits = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(p)));
  return hn::BitCast(d, hn::ShiftLeft<16>(bits));
}

/// Rounds to nearest even where the element type is bf16; NaN stays NaN.
HWY_INLINE void store(FloatTag d, FloatVector v, float* p) { hn::StoreU(v, d, p); }
HWY_INLINE void store([[maybe_unused]] FloatTag d, FloatVector v, BFloat16* p) {
  const hn::Rebind<std::uint16_t, FloatTag> d16;
  const hn::RebindToUnsigned<FloatTag> d32;
  const hn::RebindToSigned<FloatTag> d32s;
  const auto u = hn::BitCast(d32, v);
  const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(d32, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(u, hn::Set(d32, 0x7fff)), odd));
  const auto quiet_nan = hn::Or(hn::ShiftRight<16>(u), hn::Set(d32, 0x40));
  const auto bits = hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(v)), quiet_nan, rounded);
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(d32s, bits)), d16, reinterpret_cast<std::uint16_t*>(p));
}

/// The first `n` < Lanes(d) elements; the others are zero.
template <typename T>
HWY_INLINE FloatVector load_tail(FloatTag d, const T* p, std::size_t n) {
  HWY_ALIGN T padded[hn::MaxLanes(FloatTag())] = {};
  for (std::size_t i = 0; i < n; ++i) padded[i] = p[i];
  return load(d, padded);
}
template <typename T>
HWY_INLINE void store_tail(FloatTag d, FloatVector v, T* p, std::size_t n) {
  HWY_ALIGN T padded[hn::MaxLanes(FloatTag())];
  store(d, v, padded);
  for (std::size_t i = 0; i < n; ++i) p[i] = padded[i];
}

/// One step of a loop over `left` remaining elements: a whole vector, or the tail at the end.
template <typename T>
HWY_INLINE FloatVector load_up_to(FloatTag d, const T* p, std::size_t left) {
  return HWY_LIKELY(left >= hn::Lanes(d)) ? load(d, p) : load_tail(d, p, left);
}
template <typename T>
HWY_INLINE void store_up_to(FloatTag d, FloatVector v, T* p, std::size_t left) {
  if (HWY_LIKELY(left >= hn::Lanes(d))) {
    store(d, v, p);
  } else {
    store_tail(d, v, p, left);
  }
}
/// Writes a gradient, or adds it to what is there. Not for GradientMode::ignore.
template <typename T>
HWY_INLINE void store_gradient(FloatTag d, FloatVector v, T* p, std::size_t left, GradientMode mode) {
  if (mode == GradientMode::accumulate) v = hn::Add(v, load_up_to(d, p, left));
  store_up_to(d, v, p, left);
}

}  // namespace dino::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
