#pragma once

#include "data/decode.h"

namespace dino {

/// A PNG or BMP with every colour that its pixels could name, black for those that its palette lacks: stb_image would
/// show whatever is in its memory. Empty where `bytes` is as good. Throws Error, with `name`, where a BMP has no place
/// for a palette.
std::vector<std::byte> with_whole_palette(std::span<const std::byte> bytes, std::string_view name, ImageFormat format);

}  // namespace dino
