#pragma once

#include "data/decode.h"

namespace dino {

/// The JPEG part of decode_image(), through libjpeg-turbo.
void decode_jpeg(std::span<const std::byte> bytes, std::string_view name, const DecodeOptions& options, Image& image);

/// Orientation 1 to 8 from an APP1 segment ("Exif\0\0" and a TIFF header); 1, upright, when it says nothing readable.
int exif_orientation(std::span<const std::byte> segment);

/// Turns and mirrors `image` so that a picture stored with this EXIF orientation stands upright.
void apply_orientation(int orientation, Image& image);

}  // namespace dino
