#pragma once

#include "data/decode.h"

namespace dino {

/// The PNG part of decode_image(), through libpng, with `channels` (3 or 4) bytes a pixel into `pixels`.
void decode_png(std::span<const std::byte> bytes, std::string_view name, const DecodeOptions& options, int channels,
                int& height, int& width, std::vector<std::uint8_t>& pixels);

}  // namespace dino
