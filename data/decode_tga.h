#pragma once

#include "data/decode.h"

namespace dino {

/// Whether a file without a magic number can be a TGA: every field of its header makes sense, and its pixels can fit.
bool looks_like_tga(std::span<const std::byte> bytes);

/// The TGA part of decode_image(), with `channels` (3 or 4) bytes a pixel into `pixels`.
void decode_tga(std::span<const std::byte> bytes, std::string_view name, const DecodeOptions& options, int channels,
                int& height, int& width, std::vector<std::uint8_t>& pixels);

}  // namespace dino
