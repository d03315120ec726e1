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

/// 2^x for x < 127.5, relative error below 2e-7; zero for x < -126, where the result would be denormal; NaN for NaN.
/// A softmax multiplies its scale by log2(e) once and needs no range reduction by ln 2.
HWY_INLINE FloatVector exp2(FloatTag d, FloatVector x) {
  const hn::RebindToUnsigned<FloatTag> d32;
  const auto underflows = hn::Lt(x, hn::Set(d, -126.0F));
  // Adding 1.5 · 2^23 rounds x to an integer that then stands in the lowest bits, here with the exponent's bias of 127;
  // the shift leaves nothing else. What is not in range, NaN and infinity included, comes out as NaN or is cleared
  // below.
  const FloatVector magic = hn::Set(d, 12582912.0F + 127.0F);
  const FloatVector shifted = hn::Add(x, magic);
  const FloatVector power = hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(d32, shifted)));
  const FloatVector r = hn::Sub(x, hn::Sub(shifted, magic));  // exact, in [-1/2, 1/2]
  // 2^r = 1 + r q(r), with q interpolating (2^r - 1) / r at six Chebyshev nodes: 5.1e-9 off before rounding.
  FloatVector q = hn::Set(d, 1.5453163e-4F);
  q = hn::MulAdd(q, r, hn::Set(d, 1.33908634e-3F));
  q = hn::MulAdd(q, r, hn::Set(d, 9.61808256e-3F));
  q = hn::MulAdd(q, r, hn::Set(d, 5.55035711e-2F));
  q = hn::MulAdd(q, r, hn::Set(d, 0.240226508F));
  q = hn::MulAdd(q, r, hn::Set(d, 0.693147188F));
  const FloatVector fraction = hn::MulAdd(q, r, hn::Set(d, 1.0F));
  return hn::IfThenZeroElse(underflows, hn::Mul(fraction, power));
}

}  // namespace dino::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
