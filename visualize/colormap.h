#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace dino {

using Rgb = std::array<std::uint8_t, 3>;

/// Colours for the order of values. Lightness grows throughout in all but turbo, so that the order survives in print
/// and for the colour-blind.
///   heat     from black over violet, red and orange to pale yellow
///   viridis  from violet over green to yellow, inferno  from black over red to pale yellow: matplotlib's (CC0)
///   turbo    a rainbow from blue to red with even steps: shows more detail, but no order in grey (Mikhailov 2019)
/// The last three are within 3 of 255 of the originals.
enum class ColorMap { heat, viridis, inferno, turbo };

/// The map of that name. Throws Error for any other.
ColorMap color_map_named(std::string_view name);

/// A colour for a value in [0, 1]. Values outside are clamped.
Rgb map_color(ColorMap map, double value);
inline Rgb heat_color(double value) { return map_color(ColorMap::heat, value); }

/// Colours of values, the smallest of them at 0 and the largest at 1; all at 0 when they are equal. Throws Error for
/// values that are not finite.
std::vector<Rgb> map_colors(ColorMap map, std::span<const float> values);
inline std::vector<Rgb> heat_colors(std::span<const float> values) { return map_colors(ColorMap::heat, values); }

}  // namespace dino
