#pragma once

#include "data/image.h"
#include "visualize/colormap.h"

#include <string>

namespace dino {

/// Height in pixels of a line of text at scale 1.
inline constexpr int kLetterHeight_px = 8;

/// A scale at which a title of some ten letters fits into so many pixels.
inline int letter_scale(int width_px) { return width_px >= 160 ? 2 : 1; }

/// Width in pixels of a line of text, as draw_text() draws it.
int text_width(const std::string& text, int scale);

/// Draws a line of text with its upper left corner at (`left`, `top`), `?` for each character that is not printable
/// ASCII; what lies outside of the picture is cut off.
void draw_text(Image& image, int left, int top, const std::string& text, int scale, Rgb color = {40, 40, 40});

}  // namespace dino
