#pragma once

#include "data/decode.h"

namespace dino {

/// The BMP part of decode_image(), with `channels` (3 or 4) bytes a pixel into `pixels`: every size of header, palettes
/// of up to 8 bits, 16, 24 and 32 bits with or without masks; not what is compressed.
void decode_bmp(std::span<const std::byte> bytes, std::string_view name, const DecodeOptions& options, int channels,
                int& height, int& width, std::vector<std::uint8_t>& pixels);

}  // namespace dino
