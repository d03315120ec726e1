// BMP (https://learn.microsoft.com/windows/win32/gdi/bitmap-storage). stb_image reads them as well, but shows what was
// in its memory for colours beyond the palette, and refuses bytes between header and pixels.
#include "data/decode_bmp.h"

#include "data/large_picture.h"
#include "data/picture_errors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>

namespace dino {
namespace {

constexpr std::size_t kFileHeader = 14;
constexpr std::size_t kOldHeader = 12;  // of OS/2: its sides have 16 bits, its colours three bytes
constexpr std::size_t kUsualHeader = 40;

/// The lowest byte first; what lies outside is 0.
std::uint32_t number_at(std::span<const std::byte> bytes, std::size_t at, std::size_t size) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < size && at + i < bytes.size(); ++i) {
    value |= std::to_integer<std::uint32_t>(bytes[at + i]) << (8 * i);
  }
  return value;
}

/// The bits of a pixel that are one channel, and what they mean.
struct Channel {
  std::uint32_t mask = 0;
  int shift = 0;
  std::array<std::uint8_t, 256> levels{};

  /// False where they lie apart, or are more than a byte.
  bool set(std::uint32_t bits) {
    mask = bits;
    shift = mask == 0 ? 0 : std::countr_zero(mask);
    const std::uint32_t largest = mask >> shift;
    if (largest > 255 || (largest & (largest + 1)) != 0) return false;
    for (std::uint32_t i = 0; i <= largest; ++i) {
      levels[i] = static_cast<std::uint8_t>(largest == 0 ? 255 : i * 255 / largest);
    }
    return true;
  }
  std::uint8_t of(std::uint32_t pixel) const { return levels[(pixel & mask) >> shift]; }
};

}  // namespace

void decode_bmp(std::span<const std::byte> bytes, std::string_view name, const DecodeOptions& options, int channels,
                int& height, int& width, std::vector<std::uint8_t>& pixels) {
  const std::size_t header = number_at(bytes, kFileHeader, 4);
  const bool old = header == kOldHeader;
  constexpr std::array<std::size_t, 7> kHeaders = {kOldHeader, kUsualHeader, 52, 56, 64, 108, 124};
  const bool known = std::find(kHeaders.begin(), kHeaders.end(), header) != kHeaders.end();
  const std::size_t first = number_at(bytes, 10, 4);
  const std::int64_t columns =
      old ? std::int64_t{number_at(bytes, 18, 2)} : static_cast<std::int32_t>(number_at(bytes, 18, 4));
  // Negative where the rows are stored from the top.
  const std::int64_t signed_rows =
      old ? std::int64_t{number_at(bytes, 20, 2)} : static_cast<std::int32_t>(number_at(bytes, 22, 4));
  const std::int64_t rows = std::abs(signed_rows);
  const std::size_t bits = number_at(bytes, old ? 24 : 28, 2);
  const std::uint32_t compression = old ? 0 : number_at(bytes, 30, 4);
  const bool has_palette = bits == 1 || bits == 4 || bits == 8;
  constexpr std::uint32_t kBitFields = 3;
  const bool has_masks = compression == kBitFields && (bits == 16 || bits == 32);
  const std::size_t masks = kFileHeader + kUsualHeader;  // within longer headers, behind the usual one
  const std::size_t palette = kFileHeader + header;
  const std::size_t least = header == kUsualHeader && has_masks ? masks + 12 : palette + (has_palette ? 1 : 0);
  if (!known) fail_broken(name, "BMP", "its header makes no sense");
  require(compression == 0 || has_masks, "decode",
          "{}: a compressed BMP cannot be read (its header says kind {}); try one that is not", name, compression);
  if (!(has_palette || bits == 16 || bits == 24 || bits == 32) || first < least)
    fail_broken(name, "BMP", "its header makes no sense");
  if (columns <= 0 || rows == 0) fail_broken(name, "BMP", "it has no pixels");
  require_size(name, rows, columns, options.max_pixels);
  // Rows begin at multiples of four bytes; of the last, the bytes that fill it may be missing.
  const std::size_t row_bytes = (static_cast<std::size_t>(columns) * bits + 7) / 8;
  const std::size_t stride = (row_bytes + 3) / 4 * 4;
  if (bytes.size() < first || bytes.size() - first < stride * static_cast<std::size_t>(rows - 1) + row_bytes)
    fail_truncated(name, "BMP");

  std::array<std::array<std::uint8_t, 3>, 256> colors{};
  if (has_palette) {
    const std::size_t color_bytes = old ? 3 : 4;
    std::size_t stored = std::min(std::size_t{1} << bits, (first - palette) / color_bytes);
    if (const std::size_t used = old ? 0 : number_at(bytes, 46, 4); used != 0) stored = std::min(stored, used);
    for (std::size_t i = 0; i < stored; ++i) {
      for (std::size_t c = 0; c < 3; ++c) {
        colors[i][c] = std::to_integer<std::uint8_t>(bytes[palette + i * color_bytes + 2 - c]);
      }
    }
  }
  std::array<std::uint32_t, 4> channel_masks = {0xff0000, 0xff00, 0xff, 0};
  if (bits == 16) channel_masks = {0x7c00, 0x3e0, 0x1f, 0};
  if (has_masks) {
    for (std::size_t c = 0; c < 4; ++c)
      channel_masks[c] = c < 3 || header >= 56 ? number_at(bytes, masks + c * 4, 4) : 0;
  }
  std::array<Channel, 4> parts;  // red, green, blue, alpha
  for (std::size_t c = 0; c < 4; ++c) {
    require(parts[c].set(channel_masks[c]) && (c == 3 || channel_masks[c] != 0), "decode",
            "{}: a BMP whose colours have the bits {:x} cannot be read; try one of 24 bits", name, channel_masks[c]);
  }

  const auto large = lock_if_large(rows * columns);
  height = static_cast<int>(rows);
  width = static_cast<int>(columns);
  pixels.resize(static_cast<std::size_t>(rows * columns * channels));
  std::uint8_t* out = pixels.data();
  for (std::int64_t y = 0; y < rows; ++y) {
    const auto row = static_cast<std::size_t>(signed_rows < 0 ? y : rows - 1 - y);
    const std::byte* in = bytes.data() + first + row * stride;
    for (std::size_t x = 0; x < static_cast<std::size_t>(columns); ++x, out += channels) {
      if (has_palette) {
        const std::size_t byte = std::to_integer<std::size_t>(in[x * bits / 8]);
        const auto& color = colors[byte >> (8 - bits - x * bits % 8) & ((1u << bits) - 1)];
        std::copy(color.begin(), color.end(), out);
        if (channels == 4) out[3] = 255;
        continue;
      }
      std::uint32_t pixel = 0;
      for (std::size_t i = 0; i < bits / 8; ++i)
        pixel |= std::to_integer<std::uint32_t>(in[x * bits / 8 + i]) << (8 * i);
      for (std::size_t c = 0; c < static_cast<std::size_t>(channels); ++c) out[c] = parts[c].of(pixel);
    }
  }
}

}  // namespace dino
