#include "visualize/colormap.h"

#include "kernels/common/error.h"

#include <algorithm>
#include <cmath>

namespace dino {
namespace {

using Anchor = std::array<double, 3>;

// Equally spaced; their lightness (CIE L*) rises from 2 to 95 in nearly equal steps.
constexpr Anchor kHeat[] = {{4, 4, 14},    {38, 13, 74},   {84, 16, 109},  {132, 30, 107}, {180, 47, 91},
                            {222, 76, 58}, {245, 120, 24}, {250, 172, 28}, {245, 216, 88}, {252, 250, 190}};
// Every 15th of the 256 colours of the originals.
constexpr Anchor kViridis[] = {{68, 1, 84},    {72, 23, 105},  {71, 42, 122},  {67, 61, 132},  {61, 78, 138},
                               {53, 94, 141},  {46, 109, 142}, {41, 123, 142}, {35, 137, 142}, {31, 151, 139},
                               {33, 165, 133}, {46, 179, 124}, {70, 192, 111}, {101, 203, 94}, {137, 213, 72},
                               {176, 221, 47}, {216, 226, 25}, {253, 231, 37}};
constexpr Anchor kInferno[] = {{0, 0, 4},      {10, 7, 34},     {30, 12, 69},   {56, 9, 98},   {81, 14, 108},
                               {105, 22, 110}, {128, 31, 108},  {152, 39, 102}, {176, 49, 91}, {198, 61, 77},
                               {217, 77, 61},  {233, 97, 43},   {244, 121, 24}, {250, 148, 7}, {252, 176, 20},
                               {248, 205, 55}, {242, 234, 105}, {252, 255, 164}};
constexpr Anchor kTurbo[] = {{48, 18, 59},   {63, 62, 156},  {70, 102, 221}, {69, 140, 253}, {47, 178, 244},
                             {26, 212, 208}, {34, 235, 170}, {82, 250, 122}, {139, 255, 75}, {183, 247, 53},
                             {219, 226, 54}, {245, 197, 58}, {254, 161, 48}, {249, 117, 29}, {232, 75, 12},
                             {206, 45, 4},   {169, 22, 1},   {122, 4, 3}};

std::span<const Anchor> anchors_of(ColorMap map) {
  switch (map) {
    case ColorMap::viridis: return kViridis;
    case ColorMap::inferno: return kInferno;
    case ColorMap::turbo: return kTurbo;
    case ColorMap::heat: break;
  }
  return kHeat;
}

}  // namespace

ColorMap color_map_named(std::string_view name) {
  if (name == "heat") return ColorMap::heat;
  if (name == "viridis") return ColorMap::viridis;
  if (name == "inferno") return ColorMap::inferno;
  if (name == "turbo") return ColorMap::turbo;
  fail("colormap", "there is no colour map {}; expected heat, viridis, inferno or turbo", name);
}

Rgb map_color(ColorMap map, double value) {
  const std::span<const Anchor> anchors = anchors_of(map);
  const int segments = static_cast<int>(anchors.size()) - 1;
  const double position = std::clamp(std::isnan(value) ? 0.0 : value, 0.0, 1.0) * segments;
  const int segment = std::min(static_cast<int>(position), segments - 1);
  const double t = position - segment;
  Rgb color{};
  for (std::size_t c = 0; c < 3; ++c) {
    const auto inside = [&](int i) { return anchors[static_cast<std::size_t>(i)][c]; };
    // Beyond the ends the parabola through the last three anchors goes on.
    const auto anchor = [&](int i) {
      if (i < 0) return 3 * (inside(0) - inside(1)) + inside(2);
      if (i > segments) return 3 * (inside(segments) - inside(segments - 1)) + inside(segments - 2);
      return inside(i);
    };
    // Catmull-Rom: passes through the anchors with a continuous slope.
    const double a = anchor(segment - 1), b = anchor(segment), d = anchor(segment + 1), e = anchor(segment + 2);
    const double curve = b + 0.5 * t * (d - a + t * (2 * a - 5 * b + 4 * d - e + t * (3 * (b - d) + e - a)));
    color[c] = static_cast<std::uint8_t>(std::lround(std::clamp(curve, 0.0, 255.0)));
  }
  return color;
}

std::vector<Rgb> map_colors(ColorMap map, std::span<const float> values) {
  std::vector<Rgb> colors;
  if (values.empty()) return colors;
  for (const float value : values) require(std::isfinite(value), "colormap", "a value is not finite: {}", value);
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  const double scale = *high > *low ? 1.0 / (static_cast<double>(*high) - static_cast<double>(*low)) : 0.0;
  for (const float value : values)
    colors.push_back(map_color(map, (static_cast<double>(value) - static_cast<double>(*low)) * scale));
  return colors;
}

}  // namespace dino
