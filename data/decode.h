#pragma once

#include "data/image.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace dino {

/// How a picture is decoded. The default is what Pillow's `Image.open(path).convert("RGB")` gives, turned upright.
struct DecodeOptions {
  /// 0: decode at full size. Else a JPEG may come out at 1/2, 1/4 or 1/8 of its size (in the transform domain, several
  /// times faster), as long as neither side drops below this many pixels.
  int min_side_px = 0;
  /// Turn the picture as its EXIF orientation says (JPEG). Pillow and torchvision leave it lying.
  bool apply_orientation = true;
  /// Larger pictures are refused from their header, before memory is taken: Pillow's limit for decompression bombs.
  std::int64_t max_pixels = 178'956'970;
};

/// What the first bytes say a file is. Names and extensions are never asked.
enum class ImageFormat { unknown, jpeg, png, gif, bmp, tga, pnm };
ImageFormat detect_image_format(std::span<const std::byte> bytes);

/// Decodes JPEG (baseline, progressive, grey, CMYK, YCCK), PNG (1 to 16 bit, palette), GIF (first frame), BMP, TGA or
/// PNM (8 bit) into 8-bit RGB. Alpha and transparency are dropped, grey is repeated, 16 bit keep their upper byte, CMYK
/// is read as Adobe writes it (inverted), colours beyond a palette are black - all as Pillow does, but for PNGs of
/// 16-bit grey, which Pillow shows white from 255 of 65535 on. `name` is what messages call the picture. Throws Error
/// for anything that is not a whole, sound picture: empty, another kind of file, cut short, corrupt, too large. Safe to
/// call from several threads.
void decode_image(std::span<const std::byte> bytes, std::string_view name, const DecodeOptions& options, Image& image);

/// decode_image() of a file's content.
void decode_image_file(const std::filesystem::path& path, const DecodeOptions& options, Image& image);

/// A picture with its alpha channel: (height, width, 4) uint8, not premultiplied; 255 is opaque.
struct RgbaImage {
  int height = 0;
  int width = 0;
  std::vector<std::uint8_t> rgba;
};

/// As decode_image_file(), with alpha kept; opaque where the file has none.
RgbaImage decode_rgba_file(const std::filesystem::path& path, const DecodeOptions& options = {});

/// Content of a regular file, read into `bytes`, whose memory is reused. Throws Error for anything else, and above 1
/// GiB.
void read_picture_file(const std::filesystem::path& path, std::vector<std::byte>& bytes);

}  // namespace dino
