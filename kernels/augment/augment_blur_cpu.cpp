#include "kernels/augment/augment_cpu.h"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/augment/augment_blur_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::augment::HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR

namespace hn = hwy::HWY_NAMESPACE;

/// to[i] = weighted sum over taps[0 … 2·radius + 2][i], the first and last of which are the border. May write up to one
/// vector past n.
HWY_INLINE void blur_span(const std::uint8_t* const* taps, const BoxBlur& blur, std::int64_t n, std::uint8_t* to) {
  const hn::ScalableTag<std::int16_t> d;
  const hn::RepartitionToWide<decltype(d)> d32;
  const hn::RebindToUnsigned<decltype(d32)> du32;
  const hn::Rebind<std::uint8_t, decltype(d)> d8;
  // Both weights in two halves of 12 bits; a sum of up to 121 bytes stays below 2^15.
  const auto pair = [&](std::int32_t weight, std::int32_t border)
                        HWY_ATTR { return hn::BitCast(d, hn::Set(d32, weight | (border << 16))); };
  const auto high = pair(blur.weight >> 12, blur.border_weight >> 12);
  const auto low = pair(blur.weight & 4095, blur.border_weight & 4095);
  const auto weigh = [&](auto pairs) HWY_ATTR {
    const auto dot = [&](auto factors) HWY_ATTR {
      auto rest = hn::Zero(d32);
      const auto sum = hn::ReorderWidenMulAccumulate(d32, pairs, factors, hn::Zero(d32), rest);
      return hn::RearrangeToOddPlusEven(sum, rest);
    };
    const auto sum = hn::Add(hn::Add(hn::ShiftLeft<12>(dot(high)), dot(low)), hn::Set(d32, 1 << 23));
    return hn::BitCast(d32, hn::ShiftRight<24>(hn::BitCast(du32, sum)));
  };
  const int last = 2 * blur.radius + 2;
  for (std::int64_t i = 0; i < n; i += static_cast<std::int64_t>(hn::Lanes(d))) {
    const auto tap = [&](int t) HWY_ATTR { return hn::PromoteTo(d, hn::LoadU(d8, taps[t] + i)); };
    auto inner = tap(1);
    for (int t = 2; t < last; ++t) inner = hn::Add(inner, tap(t));
    const auto border = hn::Add(tap(0), tap(last));
    // Interleaving and packing work within 128-bit blocks, so that one undoes the other's order.
    const auto first_half = weigh(hn::InterleaveLower(d, inner, border));
    const auto second_half = weigh(hn::InterleaveUpper(d, inner, border));
    hn::StoreU(hn::DemoteTo(d8, hn::ReorderDemote2To(d, first_half, second_half)), d8, to + i);
  }
}

void blur_rows_simd(const Planes& planes, const BoxBlur& blur, std::uint8_t* scratch) {
  const int reach = blur.radius + 1;
  std::uint8_t* const one = scratch + kSlack;
  std::uint8_t* const other = one + planes.width + 2 * kSlack;
  const auto repeat_borders = [&](std::uint8_t* row) {
    std::memset(row - reach, row[0], static_cast<std::size_t>(reach));
    std::memset(row + planes.width, row[planes.width - 1], static_cast<std::size_t>(reach));
  };
  const auto pass = [&](std::uint8_t* from, std::uint8_t* to) HWY_ATTR {
    repeat_borders(from);
    const std::uint8_t* taps[2 * kMaxBoxRadius + 3];
    for (int t = 0; t < 2 * reach + 1; ++t) taps[t] = from + t - reach;
    blur_span(taps, blur, planes.width, to);
  };
  for (int c = 0; c < planes.count; ++c) {
    for (std::int64_t y = 0; y < planes.height; ++y) {
      std::uint8_t* row = planes.plane(c) + y * planes.width;
      std::memcpy(one, row, static_cast<std::size_t>(planes.width));
      pass(one, other);
      pass(other, one);
      pass(one, other);
      std::memcpy(row, other, static_cast<std::size_t>(planes.width));
    }
  }
}

/// Once along y.
void blur_columns_once(const std::uint8_t* from, std::uint8_t* to, std::int64_t height, std::int64_t width,
                       const BoxBlur& blur) {
  const int reach = blur.radius + 1;
  for (std::int64_t y = 0; y < height; ++y) {
    const std::uint8_t* taps[2 * kMaxBoxRadius + 3];
    for (int t = 0; t < 2 * reach + 1; ++t)
      taps[t] = from + std::clamp<std::int64_t>(y + t - reach, 0, height - 1) * width;
    blur_span(taps, blur, width, to + y * width);
  }
}

void blur_columns_simd(const Planes& planes, const Planes& other, const BoxBlur& blur) {
  for (int c = 0; c < planes.count; ++c) {
    blur_columns_once(planes.plane(c), other.plane(c), planes.height, planes.width, blur);
    blur_columns_once(other.plane(c), planes.plane(c), planes.height, planes.width, blur);
    blur_columns_once(planes.plane(c), other.plane(c), planes.height, planes.width, blur);
  }
}

#else  // never called, see has_vectors()

void blur_rows_simd(const Planes&, const BoxBlur&, std::uint8_t*) {}
void blur_columns_simd(const Planes&, const Planes&, const BoxBlur&) {}

#endif

}  // namespace dino::cpu::augment::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu::augment {

HWY_EXPORT(blur_rows_simd);
HWY_EXPORT(blur_columns_simd);

void blur_rows(const Planes& planes, const BoxBlur& blur, std::uint8_t* scratch) {
  HWY_DYNAMIC_DISPATCH(blur_rows_simd)(planes, blur, scratch);
}
void blur_columns(const Planes& planes, const Planes& other, const BoxBlur& blur) {
  HWY_DYNAMIC_DISPATCH(blur_columns_simd)(planes, other, blur);
}

}  // namespace dino::cpu::augment
#endif
