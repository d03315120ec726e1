#include "visualize/colormap.h"

#include "kernels/common/error.h"

#include <algorithm>
#include <cmath>

namespace dino {
namespace {

// Equally spaced; their lightness (CIE L*) rises from 2 to 95 in nearly equal steps.
constexpr double kAnchors[][3] = {{4, 4, 14},    {38, 13, 74},   {84, 16, 109},  {132, 30, 107}, {180, 47, 91},
                                  {222, 76, 58}, {245, 120, 24}, {250, 172, 28}, {245, 216, 88}, {252, 250, 190}};
constexpr int kSegments = static_cast<int>(std::size(kAnchors)) - 1;

}  // namespace

Rgb heat_color(double value) {
  const double position = std::clamp(std::isnan(value) ? 0.0 : value, 0.0, 1.0) * kSegments;
  const int segment = std::min(static_cast<int>(position), kSegments - 1);
  const double t = position - segment;
  Rgb color{};
  for (std::size_t c = 0; c < 3; ++c) {
    // Catmull-Rom: passes through the anchors with a continuous slope.
    const auto anchor = [&](int i) { return kAnchors[std::clamp(i, 0, kSegments)][c]; };
    const double a = anchor(segment - 1), b = anchor(segment), d = anchor(segment + 1), e = anchor(segment + 2);
    const double curve = b + 0.5 * t * (d - a + t * (2 * a - 5 * b + 4 * d - e + t * (3 * (b - d) + e - a)));
    color[c] = static_cast<std::uint8_t>(std::lround(std::clamp(curve, 0.0, 255.0)));
  }
  return color;
}

std::vector<Rgb> heat_colors(std::span<const float> values) {
  std::vector<Rgb> colors;
  if (values.empty()) return colors;
  for (const float value : values) require(std::isfinite(value), "colormap", "a value is not finite: {}", value);
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  const double scale = *high > *low ? 1.0 / (static_cast<double>(*high) - static_cast<double>(*low)) : 0.0;
  for (const float value : values)
    colors.push_back(heat_color((static_cast<double>(value) - static_cast<double>(*low)) * scale));
  return colors;
}

}  // namespace dino
