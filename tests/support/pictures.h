#pragma once

#include "data/image.h"

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dino::test {

/// A smooth picture in which every pixel differs from its mirror images.
Image gradient_image(int height, int width);

struct JpegOptions {
  int quality = 95;
  int components = 3;  // 1: grey, of the first channel; 3: YCbCr; 4: CMYK as Adobe stores it (inverted)
  bool ycck = false;   // with 4 components
  bool progressive = false;
  int orientation = 0;  // 0: no EXIF
  bool exif_big_endian = false;
};
std::vector<std::byte> encode_jpeg(const Image& image, const JpegOptions& options = {});

/// A PNG made by hand from raw rows (each with its filter byte) without compression.
std::vector<std::byte> handmade_png(int width, int height, int bit_depth, int color_type, std::string_view rows,
                                    std::string_view palette = {}, std::string_view transparency = {},
                                    bool interlaced = false);

/// A chunk of a PNG with its length and checksum; `type` has four letters.
std::string png_chunk(std::string_view type, std::string_view content);

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace dino::test
