#pragma once

#include "data/decode.h"

namespace dino {

/// The GIF part of decode_image(): the first frame on its screen, with `channels` (3 or 4) bytes a pixel into `pixels`.
/// As Pillow shows it, a transparent pixel has its colour of the palette, and so has the screen around the frame: the
/// transparent colour, else the first; the screen's background colour is not asked.
void decode_gif(std::span<const std::byte> bytes, std::string_view name, const DecodeOptions& options, int channels,
                int& height, int& width, std::vector<std::uint8_t>& pixels);

}  // namespace dino
