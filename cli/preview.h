#pragma once

#include "data/image.h"

namespace dino {

/// Draws a picture in the terminal; where the output is none, or wants no colours (see shows_colors()), says so
/// instead.
void show_preview(const Image& picture);

}  // namespace dino
