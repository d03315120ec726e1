#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace dino {

using Rgb = std::array<std::uint8_t, 3>;

/// A colour for a value in [0, 1]: from black over violet, red and orange to pale yellow. Lightness grows throughout,
/// so that the order of values survives in print and for the colour-blind. Values outside are clamped.
Rgb heat_color(double value);

/// Colours of values, the smallest of them at 0 and the largest at 1; all at 0 when they are equal. Throws Error for
/// values that are not finite.
std::vector<Rgb> heat_colors(std::span<const float> values);

}  // namespace dino
