#include "data/palette.h"

#include "kernels/common/error.h"

#include <algorithm>
#include <cstring>
#include <string_view>

namespace dino {
namespace {

/// `size` bytes from `at`, the first the highest or the lowest; what lies outside is 0.
std::size_t number_at(std::span<const std::byte> bytes, std::size_t at, std::size_t size, bool big_endian) {
  std::size_t value = 0;
  for (std::size_t i = 0; i < size; ++i) {
    const std::size_t place = at + (big_endian ? i : size - 1 - i);
    value = value << 8 | (place < bytes.size() ? std::to_integer<std::size_t>(bytes[place]) : 0);
  }
  return value;
}

void set_number(std::vector<std::byte>& bytes, std::size_t at, std::size_t size, std::size_t value, bool big_endian) {
  for (std::size_t i = 0; i < size; ++i) {
    bytes[at + (big_endian ? size - 1 - i : i)] = static_cast<std::byte>(value >> (8 * i));
  }
}

std::vector<std::byte> png_with_whole_palette(std::span<const std::byte> bytes) {
  constexpr std::size_t kWhole = std::size_t{256} * 3;
  constexpr std::size_t kColorType = 25;
  if (number_at(bytes, kColorType, 1, true) != 3) return {};
  for (std::size_t at = 8; at + 12 <= bytes.size();) {
    const std::size_t length = number_at(bytes, at, 4, true);
    if (length > bytes.size() - at - 12) return {};
    if (std::memcmp(bytes.data() + at + 4, "PLTE", 4) == 0) {
      if (length >= kWhole) return {};
      // The checksum is then wrong, which stb does not look at.
      std::vector<std::byte> whole(bytes.begin(), bytes.end());
      whole.insert(whole.begin() + static_cast<std::ptrdiff_t>(at + 8 + length), kWhole - length / 3 * 3, std::byte{0});
      set_number(whole, at, 4, kWhole + length % 3, true);
      return whole;
    }
    at += 12 + length;
  }
  return {};
}

/// stb computes the size of an old header's palette wrongly, and takes what lies between any palette and the pixels for
/// colours. It gets the usual header and every colour that the pixels can name.
std::vector<std::byte> bmp_with_whole_palette(std::span<const std::byte> bytes, std::string_view name) {
  constexpr std::size_t kFileHeader = 14;
  constexpr std::size_t kOldHeader = 12;  // of OS/2: its sides have 16 bits, its colours three bytes
  constexpr std::size_t kUsualHeader = 40;
  constexpr std::size_t kPalette = kFileHeader + kUsualHeader;
  const std::size_t pixels = number_at(bytes, 10, 4, false);
  const std::size_t header = number_at(bytes, kFileHeader, 4, false);
  const bool old = header == kOldHeader;
  const std::size_t bits = number_at(bytes, old ? 24 : 28, 2, false);
  const std::size_t compression = old ? 0 : number_at(bytes, 30, 4, false);
  const std::size_t palette = kFileHeader + header;
  const bool has_palette = bits == 1 || bits == 4 || bits == 8;
  require((old || header >= kUsualHeader) && (!has_palette || pixels > palette), "decode",
          "{}: broken BMP: its header makes no sense", name);
  constexpr std::size_t kBitFields = 3;
  require(compression == 0 || (compression == kBitFields && !has_palette), "decode",
          "{}: a compressed BMP cannot be read (its header says kind {}); try one that is not", name, compression);
  if (!has_palette) return {};

  const std::size_t colors = std::size_t{1} << bits;
  const std::size_t color_bytes = old ? 3 : 4;
  std::size_t stored =
      std::min(colors, (std::min(pixels, bytes.size()) - std::min(palette, bytes.size())) / color_bytes);
  if (const std::size_t used = old ? 0 : number_at(bytes, 46, 4, false); used != 0) stored = std::min(stored, used);
  const std::span<const std::byte> rest = bytes.subspan(std::min(pixels, bytes.size()));
  std::vector<std::byte> whole(kPalette + colors * 4 + rest.size());
  whole[0] = std::byte{'B'};
  whole[1] = std::byte{'M'};
  set_number(whole, 10, 4, kPalette + colors * 4, false);
  set_number(whole, kFileHeader, 4, kUsualHeader, false);
  set_number(whole, 18, 4, number_at(bytes, 18, old ? 2 : 4, false), false);
  set_number(whole, 22, 4, number_at(bytes, old ? 20 : 22, old ? 2 : 4, false), false);
  set_number(whole, 26, 2, number_at(bytes, old ? 22 : 26, 2, false), false);
  set_number(whole, 28, 2, bits, false);
  for (std::size_t i = 0; i < stored; ++i) {
    std::memcpy(whole.data() + kPalette + i * 4, bytes.data() + palette + i * color_bytes, 3);
  }
  std::copy(rest.begin(), rest.end(), whole.end() - static_cast<std::ptrdiff_t>(rest.size()));
  return whole;
}

}  // namespace

std::vector<std::byte> with_whole_palette(std::span<const std::byte> bytes, std::string_view name, ImageFormat format) {
  if (format == ImageFormat::png) return png_with_whole_palette(bytes);
  if (format == ImageFormat::bmp) return bmp_with_whole_palette(bytes, name);
  return {};
}

}  // namespace dino
