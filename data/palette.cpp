#include "data/palette.h"

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

void set_number(std::vector<std::byte>& bytes, std::size_t at, std::size_t value, bool big_endian) {
  for (std::size_t i = 0; i < 4; ++i) bytes[at + (big_endian ? 3 - i : i)] = static_cast<std::byte>(value >> (8 * i));
}

std::vector<std::byte> with_zeros(std::span<const std::byte> bytes, std::size_t at, std::size_t count) {
  std::vector<std::byte> longer(bytes.begin(), bytes.end());
  longer.insert(longer.begin() + static_cast<std::ptrdiff_t>(at), count, std::byte{0});
  return longer;
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
      std::vector<std::byte> whole = with_zeros(bytes, at + 8 + length, kWhole - length / 3 * 3);
      set_number(whole, at, kWhole + length % 3, true);
      return whole;
    }
    at += 12 + length;
  }
  return {};
}

std::vector<std::byte> bmp_with_whole_palette(std::span<const std::byte> bytes) {
  constexpr std::size_t kFileHeader = 14;
  constexpr std::size_t kOffset = 10;
  const std::size_t header = number_at(bytes, kFileHeader, 4, false);
  const bool old = header == 12;
  const std::size_t bits = number_at(bytes, old ? 24 : 28, 2, false);
  const std::size_t pixels = number_at(bytes, kOffset, 4, false);
  const std::size_t palette = kFileHeader + header;
  if (bits > 8 || header > 124 || pixels < palette || pixels > bytes.size()) return {};
  const std::size_t whole_bytes = (old ? std::size_t{3} : std::size_t{4}) << bits;
  if (pixels - palette >= whole_bytes) return {};
  std::vector<std::byte> whole = with_zeros(bytes, pixels, whole_bytes - (pixels - palette));
  set_number(whole, kOffset, palette + whole_bytes, false);
  return whole;
}

}  // namespace

std::vector<std::byte> with_whole_palette(std::span<const std::byte> bytes, ImageFormat format) {
  if (format == ImageFormat::png) return png_with_whole_palette(bytes);
  if (format == ImageFormat::bmp) return bmp_with_whole_palette(bytes);
  return {};
}

}  // namespace dino
