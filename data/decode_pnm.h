#pragma once

#include "data/decode.h"

namespace dino {

/// The PNM part of decode_image(): P5 and P6 of 8 bits, with `channels` (3 or 4) bytes a pixel into `pixels`.
void decode_pnm(std::span<const std::byte> bytes, std::string_view name, const DecodeOptions& options, int channels,
                int& height, int& width, std::vector<std::uint8_t>& pixels);

}  // namespace dino
