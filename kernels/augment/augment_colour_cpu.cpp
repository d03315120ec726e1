#include "kernels/augment/augment_cpu.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/augment/augment_colour_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::augment::HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR

namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using IntTag = hn::RebindToSigned<FloatTag>;
using ByteTag = hn::Rebind<std::uint8_t, FloatTag>;
using Floats = hn::Vec<FloatTag>;
using Ints = hn::Vec<IntTag>;

HWY_INLINE std::int64_t lanes() { return static_cast<std::int64_t>(hn::Lanes(FloatTag())); }
HWY_INLINE Ints load(const std::uint8_t* p) { return hn::PromoteTo(IntTag(), hn::LoadU(ByteTag(), p)); }
HWY_INLINE Floats to_float(Ints x) { return hn::ConvertTo(FloatTag(), x); }
/// Clips to 0..255.
HWY_INLINE void store(Ints x, std::uint8_t* p) { hn::StoreU(hn::DemoteTo(ByteTag(), x), ByteTag(), p); }

/// from + factor·(x − from), product and sum rounded apart (this file is compiled without contraction), truncated.
HWY_INLINE void store_blend(Floats from, Floats x, Floats factor, std::uint8_t* p) {
  const Floats value = hn::Add(from, hn::Mul(factor, hn::Sub(x, from)));
  // Far outside of 0..255 the conversion would overflow.
  store(hn::ConvertTo(IntTag(), hn::Min(value, hn::Set(FloatTag(), 256.0F))), p);
}

/// (19595 r + 38470 g + 7471 b + 2^15) >> 16; the factor of g, which 16 bits do not hold, is applied in two halves.
HWY_INLINE Ints grey(Ints r, Ints g, Ints b) {
  const hn::Repartition<std::int16_t, IntTag> d16;
  const auto pair_sum = [&](Ints low, Ints high, std::int32_t low_factor, std::int32_t high_factor) HWY_ATTR {
    const auto x = hn::BitCast(d16, hn::Or(low, hn::ShiftLeft<16>(high)));
    const auto factors = hn::BitCast(d16, hn::Set(IntTag(), low_factor | (high_factor << 16)));
    Ints rest = hn::Zero(IntTag());
    const Ints sum = hn::ReorderWidenMulAccumulate(IntTag(), x, factors, hn::Zero(IntTag()), rest);
    return hn::RearrangeToOddPlusEven(sum, rest);
  };
  const Ints sum = hn::Add(pair_sum(r, g, 19595, 19235), pair_sum(g, b, 19235, 7471));
  return hn::ShiftRight<16>(hn::Add(sum, hn::Set(IntTag(), 1 << 15)));
}

void blend_with_constant_simd(const Planes& planes, float from, float factor) {
  const Floats from_vector = hn::Set(FloatTag(), from);
  const Floats factor_vector = hn::Set(FloatTag(), factor);
  for (int c = 0; c < 3; ++c) {
    std::uint8_t* plane = planes.plane(c);
    for (std::int64_t i = 0; i < planes.size(); i += lanes()) {
      store_blend(from_vector, to_float(load(plane + i)), factor_vector, plane + i);
    }
  }
}

void blend_with_grey_simd(const Planes& planes, float factor) {
  const Floats factor_vector = hn::Set(FloatTag(), factor);
  for (std::int64_t i = 0; i < planes.size(); i += lanes()) {
    const Ints r = load(planes.plane(0) + i), g = load(planes.plane(1) + i), b = load(planes.plane(2) + i);
    const Floats from = to_float(grey(r, g, b));
    store_blend(from, to_float(r), factor_vector, planes.plane(0) + i);
    store_blend(from, to_float(g), factor_vector, planes.plane(1) + i);
    store_blend(from, to_float(b), factor_vector, planes.plane(2) + i);
  }
}

std::int64_t sum_of_grey_simd(const Planes& planes) {
  const auto grey_at = [&](std::int64_t i) HWY_ATTR {
    return grey(load(planes.plane(0) + i), load(planes.plane(1) + i), load(planes.plane(2) + i));
  };
  std::int64_t sum = 0;
  std::int64_t i = 0;
  const std::int64_t whole = planes.size() - planes.size() % lanes();
  while (i < whole) {
    // A lane holds the sum of at most 2^20 values of 8 bits.
    const std::int64_t end = std::min(whole, i + (std::int64_t{1} << 20));
    Ints part = hn::Zero(IntTag());
    for (; i < end; i += lanes()) part = hn::Add(part, grey_at(i));
    HWY_ALIGN std::int32_t values[hn::MaxLanes(IntTag())];
    hn::Store(part, IntTag(), values);
    for (std::int64_t l = 0; l < lanes(); ++l) sum += values[l];
  }
  HWY_ALIGN std::int32_t values[hn::MaxLanes(IntTag())];
  hn::Store(grey_at(i), IntTag(), values);
  for (std::int64_t l = 0; i + l < planes.size(); ++l) sum += values[l];
  return sum;
}

void make_grey_simd(const Planes& planes) {
  for (std::int64_t i = 0; i < planes.size(); i += lanes()) {
    store(grey(load(planes.plane(0) + i), load(planes.plane(1) + i), load(planes.plane(2) + i)), planes.plane(0) + i);
  }
}

/// Value of one colour: round(v·(1 − s/255·w)), where the weight w is 1 far from the colour's own hue, 0 near it, and
/// linear in between. 255 turns are 510 steps of 1/85 sector; `offset` is 85·(5, 3, 1) for red, green, blue.
HWY_INLINE Ints colour_value(Floats hue_steps, Floats saturation, Floats value, float offset) {
  const FloatTag d;
  Floats k = hn::Add(hue_steps, hn::Set(d, offset));
  k = hn::Sub(k, hn::IfThenElseZero(hn::Ge(k, hn::Set(d, 510.0F)), hn::Set(d, 510.0F)));
  Floats weight = hn::Min(hn::Min(k, hn::Sub(hn::Set(d, 340.0F), k)), hn::Set(d, 85.0F));
  weight = hn::Max(weight, hn::Zero(d));
  // Whole numbers below 2^24 up to here; 21675 = 85·255. Adding a half before the division makes truncation round.
  const Floats product = hn::Mul(value, hn::Sub(hn::Set(d, 21675.0F), hn::Mul(saturation, weight)));
  const Floats quotient = hn::Mul(hn::Add(product, hn::Set(d, 10837.5F)), hn::Set(d, 1.0F / 21675.0F));
  return hn::ConvertTo(IntTag(), quotient);
}

void shift_hue_simd(const Planes& planes, int shift) {
  const FloatTag d;
  const IntTag di;
  const Ints one = hn::Set(di, 1);
  for (std::int64_t i = 0; i < planes.size(); i += lanes()) {
    const Ints r = load(planes.plane(0) + i), g = load(planes.plane(1) + i), b = load(planes.plane(2) + i);
    const Ints high = hn::Max(r, hn::Max(g, b));
    const Ints range = hn::Sub(high, hn::Min(r, hn::Min(g, b)));
    const Ints twice = hn::Add(range, range);
    // Hue in sixths of a turn, times the range: from 0 to below 6·range.
    const Ints red = hn::Sub(g, b);
    const Ints red_wrapped =
        hn::Add(red, hn::IfThenElseZero(hn::Lt(red, hn::Zero(di)), hn::Add(twice, hn::Add(twice, twice))));
    const Ints green = hn::Add(twice, hn::Sub(b, r));
    const Ints blue = hn::Add(hn::Add(twice, twice), hn::Sub(r, g));
    const Ints sixths = hn::IfThenElse(hn::Eq(r, high), red_wrapped, hn::IfThenElse(hn::Eq(g, high), green, blue));
    // 255/6 = 85/2. The quotients are rounded, but where they are not whole they are too far from it to matter.
    const Floats hue_exact = hn::Div(hn::Mul(to_float(sixths), hn::Set(d, 85.0F)), to_float(hn::Max(twice, one)));
    Ints hue = hn::ConvertTo(di, hue_exact);
    const auto whole = hn::RebindMask(di, hn::Eq(hue_exact, to_float(hue)));
    hue = hn::Sub(hue, hn::IfThenElseZero(whole, hn::GatherIndex(di, kHueDeficit, hue)));
    hue = hn::And(hn::Add(hue, hn::Set(di, shift)), hn::Set(di, 255));
    const Floats value = to_float(high);
    const Floats saturation_exact = hn::Div(hn::Mul(to_float(range), hn::Set(d, 255.0F)), to_float(hn::Max(high, one)));
    const Floats saturation = to_float(hn::ConvertTo(di, saturation_exact));
    const Floats hue_steps = to_float(hn::Add(hue, hue));
    store(colour_value(hue_steps, saturation, value, 425.0F), planes.plane(0) + i);
    store(colour_value(hue_steps, saturation, value, 255.0F), planes.plane(1) + i);
    store(colour_value(hue_steps, saturation, value, 85.0F), planes.plane(2) + i);
  }
}

void interleave_simd(const Planes& planes, bool solarize, std::uint8_t* output) {
  const hn::ScalableTag<std::uint8_t> d;
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  const int second = planes.count == 3 ? 1 : 0;
  const int third = planes.count == 3 ? 2 : 0;
  const auto load_plane = [&](int c, std::int64_t i) HWY_ATTR {
    const auto x = hn::LoadU(d, planes.plane(c) + i);
    return solarize ? hn::Min(x, hn::Xor(x, hn::Set(d, 255))) : x;
  };
  std::int64_t i = 0;
  for (; i + step <= planes.size(); i += step) {
    hn::StoreInterleaved3(load_plane(0, i), load_plane(second, i), load_plane(third, i), d, output + 3 * i);
  }
  HWY_ALIGN std::uint8_t tail[3 * hn::MaxLanes(d)];
  hn::StoreInterleaved3(load_plane(0, i), load_plane(second, i), load_plane(third, i), d, tail);
  std::copy_n(tail, 3 * (planes.size() - i), output + 3 * i);
}

#else  // never called, see has_vectors()

void blend_with_constant_simd(const Planes&, float, float) {}
void blend_with_grey_simd(const Planes&, float) {}
std::int64_t sum_of_grey_simd(const Planes&) { return 0; }
void make_grey_simd(const Planes&) {}
void shift_hue_simd(const Planes&, int) {}
void interleave_simd(const Planes&, bool, std::uint8_t*) {}

#endif

}  // namespace dino::cpu::augment::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu::augment {

HWY_EXPORT(blend_with_constant_simd);
HWY_EXPORT(blend_with_grey_simd);
HWY_EXPORT(sum_of_grey_simd);
HWY_EXPORT(make_grey_simd);
HWY_EXPORT(shift_hue_simd);
HWY_EXPORT(interleave_simd);

void blend_with_constant(const Planes& planes, float from, float factor) {
  HWY_DYNAMIC_DISPATCH(blend_with_constant_simd)(planes, from, factor);
}
void blend_with_grey(const Planes& planes, float factor) { HWY_DYNAMIC_DISPATCH(blend_with_grey_simd)(planes, factor); }
std::int64_t sum_of_grey(const Planes& planes) { return HWY_DYNAMIC_DISPATCH(sum_of_grey_simd)(planes); }
void make_grey(const Planes& planes) { HWY_DYNAMIC_DISPATCH(make_grey_simd)(planes); }
void shift_hue(const Planes& planes, int shift) { HWY_DYNAMIC_DISPATCH(shift_hue_simd)(planes, shift); }
void interleave(const Planes& planes, bool solarize, std::uint8_t* output) {
  HWY_DYNAMIC_DISPATCH(interleave_simd)(planes, solarize, output);
}

}  // namespace dino::cpu::augment
#endif
