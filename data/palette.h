#pragma once

#include "data/decode.h"

namespace dino {

/// A PNG or BMP whose palette has fewer colours than its pixels could name, with black for the missing ones: stb_image
/// would show whatever is in its memory. Empty where `bytes` is as good.
std::vector<std::byte> with_whole_palette(std::span<const std::byte> bytes, ImageFormat format);

}  // namespace dino
