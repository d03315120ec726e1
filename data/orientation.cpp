#include "data/decode_jpeg.h"

#include <cstring>

namespace dino {
namespace {

/// Bounds-checked numbers of a TIFF structure in either byte order; what lies outside reads as 0.
class Tiff {
 public:
  Tiff(std::span<const std::byte> bytes, bool big_endian) : bytes_(bytes), big_endian_(big_endian) {}

  std::uint32_t u16(std::size_t at) const { return number(at, 2); }
  std::uint32_t u32(std::size_t at) const { return number(at, 4); }

 private:
  std::uint32_t number(std::size_t at, std::size_t length) const {
    if (at > bytes_.size() || bytes_.size() - at < length) return 0;
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < length; ++i) {
      value = value << 8 | std::to_integer<std::uint32_t>(bytes_[at + (big_endian_ ? i : length - 1 - i)]);
    }
    return value;
  }

  std::span<const std::byte> bytes_;
  bool big_endian_;
};

}  // namespace

int exif_orientation(std::span<const std::byte> segment) {
  constexpr std::size_t kPrefix = 6;
  if (segment.size() < kPrefix + 8 || std::memcmp(segment.data(), "Exif\0\0", kPrefix) != 0) return 1;
  const std::span<const std::byte> bytes = segment.subspan(kPrefix);
  const bool big_endian = bytes[0] == std::byte{'M'};
  if (!big_endian && bytes[0] != std::byte{'I'}) return 1;
  const Tiff tiff(bytes, big_endian);
  if (tiff.u16(2) != 42) return 1;
  constexpr std::uint32_t kOrientationTag = 0x0112;
  constexpr std::uint32_t kShort = 3;
  const std::size_t directory = tiff.u32(4);
  const std::uint32_t entries = tiff.u16(directory);
  for (std::uint32_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + std::size_t{12} * i;
    if (entry >= bytes.size()) break;
    if (tiff.u16(entry) != kOrientationTag || tiff.u16(entry + 2) != kShort) continue;
    const std::uint32_t value = tiff.u16(entry + 8);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

void apply_orientation(int orientation, Image& image) {
  if (orientation <= 1 || orientation > 8) return;
  // Bits of the EXIF table: 5 to 8 exchange rows and columns; the mirrored axes follow per entry.
  const bool transpose = orientation >= 5;
  const bool flip_x = orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
  const bool flip_y = orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
  const int height = transpose ? image.width : image.height;
  const int width = transpose ? image.height : image.width;
  std::vector<std::uint8_t> turned(image.rgb.size());
  std::uint8_t* out = turned.data();
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const int across = flip_x ? width - 1 - x : x;
      const int down = flip_y ? height - 1 - y : y;
      const std::size_t row = static_cast<std::size_t>(transpose ? across : down);
      const std::size_t column = static_cast<std::size_t>(transpose ? down : across);
      std::memcpy(out, image.rgb.data() + (row * static_cast<std::size_t>(image.width) + column) * 3, 3);
      out += 3;
    }
  }
  image.height = height;
  image.width = width;
  image.rgb = std::move(turned);
}

}  // namespace dino
