#pragma once

#include "data/image.h"

#include <string>

namespace dino {

/// A picture as text for a terminal with 24-bit colours: `columns` characters wide, two pixels in each, one above the
/// other (▀ in the colour of the upper on that of the lower). Pixels are means of the areas they stand for; a picture
/// narrower than `columns` stays at its size. Each line ends with the colours reset and a line feed.
std::string terminal_preview(const Image& picture, int columns);

}  // namespace dino
