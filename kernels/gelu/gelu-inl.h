// The normal distribution for Highway kernels. Included once per instruction set, after hwy/foreach_target.h and
// hwy/highway.h.
#if defined(DINO_KERNELS_GELU_GELU_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DINO_KERNELS_GELU_GELU_INL_H_
#undef DINO_KERNELS_GELU_GELU_INL_H_
#else
#define DINO_KERNELS_GELU_GELU_INL_H_
#endif

#include "kernels/common/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dino::simd::HWY_NAMESPACE {

struct Normal {
  FloatVector gaussian;  // exp(−x²/2)
  FloatVector cdf;       // Φ(x) = (1 + erf(x/√2)) / 2
};

/// Both from one exponential: Φ(−t) = exp(−t²/2)·g(t) for t >= 0, where g(t)·u⁻¹, u = 1/(1 + 0.35t), is a polynomial of
/// degree 8 in u, fitted over 0 <= t <= 14 for the smallest largest relative error (3.2e-8; Remez). The exponential is
/// 2ⁿ·2ᶠ with a polynomial of degree 6 for |f| <= 1/2 (5e-9). Beyond the normal numbers it is zero.
HWY_INLINE Normal normal_distribution(FloatTag d, FloatVector x) {
  const hn::RebindToSigned<FloatTag> d_int;
  const auto one = hn::Set(d, 1.0F);

  const auto exponent = hn::Max(hn::Set(d, -127.0F), hn::Mul(hn::Mul(x, x), hn::Set(d, -0.721347520444F)));
  const auto whole = hn::Round(exponent);
  const auto f = hn::Sub(exponent, whole);
  auto p = hn::Set(d, 0.000154531629451F);
  p = hn::MulAdd(p, f, hn::Set(d, 0.00133908633647F));
  p = hn::MulAdd(p, f, hn::Set(d, 0.00961808255728F));
  p = hn::MulAdd(p, f, hn::Set(d, 0.0555035711422F));
  p = hn::MulAdd(p, f, hn::Set(d, 0.240226507606F));
  p = hn::MulAdd(p, f, hn::Set(d, 0.693147188026F));
  p = hn::MulAdd(p, f, one);
  const auto power = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(d_int, whole), hn::Set(d_int, 127)));
  const auto gaussian = hn::Mul(p, hn::BitCast(d, power));

  const auto u = hn::Div(one, hn::MulAdd(hn::Abs(x), hn::Set(d, 0.35F), one));
  auto g = hn::Set(d, -0.0291459433986F);
  g = hn::MulAdd(g, u, hn::Set(d, 0.143971752792F));
  g = hn::MulAdd(g, u, hn::Set(d, -0.255714349679F));
  g = hn::MulAdd(g, u, hn::Set(d, 0.159174248652F));
  g = hn::MulAdd(g, u, hn::Set(d, -0.0231098821755F));
  g = hn::MulAdd(g, u, hn::Set(d, 0.105508018435F));
  g = hn::MulAdd(g, u, hn::Set(d, 0.119832865294F));
  g = hn::MulAdd(g, u, hn::Set(d, 0.139861869837F));
  g = hn::MulAdd(g, u, hn::Set(d, 0.139621404297F));
  const auto tail = hn::Mul(hn::Mul(g, u), gaussian);
  return {gaussian, hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(one, tail))};
}

HWY_INLINE FloatVector gelu(FloatTag d, FloatVector x) { return hn::Mul(x, normal_distribution(d, x).cdf); }

/// d gelu(x) / dx
HWY_INLINE FloatVector gelu_slope(FloatTag d, FloatVector x) {
  const Normal normal = normal_distribution(d, x);
  return hn::MulAdd(hn::Mul(x, hn::Set(d, 0.398942280401F)), normal.gaussian, normal.cdf);
}

}  // namespace dino::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
