#include "kernels/augment/augment_cpu.h"

#include <algorithm>
#include <cmath>

namespace dino::cpu::augment {
namespace {

constexpr int kWeightBits = 22;
constexpr int kLowBits = 11;

double filter_support(const Axis& axis) {
  const double scale = static_cast<double>(axis.source) / static_cast<double>(axis.resized);
  return (axis.filter == ResizeFilter::bicubic ? 2.0 : 1.0) * std::max(scale, 1.0);
}

/// The same factored polynomials as Pillow's, whose rounding decides ties.
double filter_value(ResizeFilter filter, double x) {
  x = std::abs(x);
  if (filter == ResizeFilter::bilinear) return x < 1.0 ? 1.0 - x : 0.0;
  if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * -0.5;
  return 0.0;
}

std::int64_t max_pairs(const Axis& axis) {
  if (axis.source == axis.resized) return 1;
  return (2 * static_cast<std::int64_t>(std::ceil(filter_support(axis))) + 1) / 2 + 1;
}

std::int32_t pack(std::int32_t even, std::int32_t odd) {
  return static_cast<std::int32_t>((static_cast<std::uint32_t>(even) & 0xffffU) |
                                   (static_cast<std::uint32_t>(odd) << 16));
}

}  // namespace

std::int64_t weight_words(const Axis& axis) { return axis.outputs * (2 + 2 * max_pairs(axis)) + 2 * max_pairs(axis); }

Weights make_weights(const Axis& axis, std::int32_t* words) {
  const std::int64_t most = max_pairs(axis);
  Weights weights{.first_pair = words,
                  .pairs = words + axis.outputs,
                  .high = words + 2 * axis.outputs,
                  .low = words + (2 + most) * axis.outputs,
                  .outputs = axis.outputs,
                  .max_pairs = most,
                  .source_begin = 0,
                  .source_end = 0};
  // The last words serve as room for the weights of one output.
  auto* const exact = words + (2 + 2 * most) * axis.outputs;
  const double scale = static_cast<double>(axis.source) / static_cast<double>(axis.resized);
  const double support = filter_support(axis);
  const double shrink = 1.0 / std::max(scale, 1.0);
  std::int64_t source_begin = axis.source;
  for (std::int64_t i = 0; i < axis.outputs; ++i) {
    const std::int64_t at = axis.window + (axis.reversed ? axis.outputs - 1 - i : i);
    const double center = (static_cast<double>(at) + 0.5) * scale;
    std::int64_t begin = at;
    std::int64_t end = at + 1;
    if (axis.source != axis.resized) {
      begin = std::max<std::int64_t>(0, static_cast<std::int64_t>(center - support + 0.5));
      end = std::min<std::int64_t>(axis.source, static_cast<std::int64_t>(center + support + 0.5));
    }
    const auto value_at = [&](std::int64_t x) {
      return axis.source == axis.resized ? 1.0
                                         : filter_value(axis.filter, (static_cast<double>(x) - center + 0.5) * shrink);
    };
    double sum = 0;
    for (std::int64_t x = begin; x < end; ++x) sum += value_at(x);
    const std::int64_t aligned = begin & ~std::int64_t{1};
    const std::int64_t pairs = (end - aligned + 1) / 2;
    std::fill_n(exact, 2 * pairs, 0);
    for (std::int64_t x = begin; x < end; ++x) {
      const double value = value_at(x) / sum * (1 << kWeightBits);
      exact[x - aligned] = static_cast<std::int32_t>(value < 0 ? value - 0.5 : value + 0.5);
    }
    weights.first_pair[i] = static_cast<std::int32_t>(aligned / 2);
    weights.pairs[i] = static_cast<std::int32_t>(pairs);
    for (std::int64_t p = 0; p < pairs; ++p) {
      const std::int32_t even = exact[2 * p];
      const std::int32_t odd = exact[2 * p + 1];
      constexpr std::int32_t kLowMask = (1 << kLowBits) - 1;
      weights.high[i * most + p] = pack(even >> kLowBits, odd >> kLowBits);
      weights.low[i * most + p] = pack(even & kLowMask, odd & kLowMask);
    }
    source_begin = std::min(source_begin, aligned);
    weights.source_end = std::max(weights.source_end, end);
  }
  weights.source_begin = source_begin;
  for (std::int64_t i = 0; i < axis.outputs; ++i) weights.first_pair[i] -= static_cast<std::int32_t>(source_begin / 2);
  return weights;
}

BoxBlur make_box_blur(float sigma) {
  // Gwosdek et al., SSVM 2011: length of the box, its whole radius and the fraction of a pixel on top, in fp32.
  const float variance = sigma * sigma / 3.0F;
  const auto length = static_cast<float>(std::sqrt(12.0 * static_cast<double>(variance) + 1.0));
  const auto whole = static_cast<float>(std::floor((static_cast<double>(length) - 1.0) / 2.0));
  float fraction = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance);
  fraction /= 6 * (variance - (whole + 1) * (whole + 1));
  const float radius = whole + fraction;
  BoxBlur blur{};
  blur.radius = static_cast<int>(radius);
  blur.weight = static_cast<std::int32_t>(static_cast<float>(1 << 24) / (radius * 2 + 1));
  blur.border_weight = ((1 << 24) - (blur.radius * 2 + 1) * blur.weight) / 2;
  return blur;
}

// The hue is 255·h for h in turns. Pillow rounds h to fp32 and truncates, so that where 255·h should be a whole number
// j it is j or j - 1, whatever colour it comes from; everywhere else the rounding does not matter.
const std::int32_t kHueDeficit[256] = {
    0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,  // from 0
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  // from 32
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0,  // from 64
    1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  // from 96
    0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0,  // from 128
    0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0,  // from 160
    0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  // from 192
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  // from 224
};

}  // namespace dino::cpu::augment
