// 2^x for Highway kernels; included once per instruction set, as simd-inl.h.
#if defined(DINO_KERNELS_COMMON_SIMD_EXP2_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DINO_KERNELS_COMMON_SIMD_EXP2_INL_H_
#undef DINO_KERNELS_COMMON_SIMD_EXP2_INL_H_
#else
#define DINO_KERNELS_COMMON_SIMD_EXP2_INL_H_
#endif

#include "kernels/common/simd-inl.h"

#include <hwy/highway.h>

#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace dino::simd::HWY_NAMESPACE {

/// 2^x for x < 128, relative error below 2e-7; zero for x < -126, where the result would be denormal; NaN for NaN.
/// A softmax multiplies its scale by log2(e) once and needs no range reduction by ln 2.
HWY_INLINE FloatVector exp2(FloatTag d, FloatVector x) {
  const hn::RebindToSigned<FloatTag> d32;
  const FloatVector lowest = hn::Set(d, -126.0F);
  const auto underflows = hn::Lt(x, lowest);
  x = hn::IfThenElse(underflows, lowest, x);
  const FloatVector whole = hn::Round(x);
  const FloatVector r = hn::Sub(x, whole);  // exact, in [-1/2, 1/2]
  // 2^r = 1 + r q(r), with q interpolating (2^r - 1) / r at six Chebyshev nodes: 5.1e-9 off before rounding.
  FloatVector q = hn::Set(d, 1.5453163e-4F);
  q = hn::MulAdd(q, r, hn::Set(d, 1.33908634e-3F));
  q = hn::MulAdd(q, r, hn::Set(d, 9.61808256e-3F));
  q = hn::MulAdd(q, r, hn::Set(d, 5.55035711e-2F));
  q = hn::MulAdd(q, r, hn::Set(d, 0.240226508F));
  q = hn::MulAdd(q, r, hn::Set(d, 0.693147188F));
  const FloatVector fraction = hn::MulAdd(q, r, hn::Set(d, 1.0F));
  // NaN must not reach the conversion to integers; it survives in `fraction`.
  const auto exponent = hn::ConvertTo(d32, hn::IfThenElseZero(hn::Eq(x, x), whole));
  const FloatVector power = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(exponent, hn::Set(d32, 127))));
  return hn::IfThenZeroElse(underflows, hn::Mul(fraction, power));
}

}  // namespace dino::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
