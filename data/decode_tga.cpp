// TGA (Truevision, "TGA File Format Specification, Version 2.0"). stb_image reads them as well, but mirrors those that
// are stored from the right, and loses its way where a palette does not begin with colour 0.
#include "data/decode_tga.h"

#include "data/large_picture.h"
#include "data/picture_errors.h"

#include <algorithm>
#include <array>

namespace dino {
namespace {

constexpr std::size_t kHeaderBytes = 18;
constexpr int kRunLength = 8;  // of the kind: whether it is compressed

enum Kind { kPalette = 1, kRgb = 2, kGrey = 3 };

struct Header {
  int kind;  // without kRunLength
  bool compressed;
  bool has_palette;
  std::size_t comment_bytes;
  std::size_t first_color;
  std::size_t colors;
  int color_bits;
  int width;
  int height;
  int bits;
  bool from_right;
  bool from_top;

  std::size_t color_bytes() const { return static_cast<std::size_t>(color_bits + 7) / 8; }
  std::size_t pixel_bytes() const { return static_cast<std::size_t>(bits + 7) / 8; }
};

Header read_header(std::span<const std::byte> bytes) {
  const auto u8 = [&](std::size_t at) { return std::to_integer<int>(bytes[at]); };
  const auto u16 = [&](std::size_t at) { return u8(at) | u8(at + 1) << 8; };
  Header header{};
  header.comment_bytes = static_cast<std::size_t>(u8(0));
  header.has_palette = u8(1) != 0;
  header.kind = u8(2) & ~kRunLength;
  header.compressed = (u8(2) & kRunLength) != 0;
  header.first_color = static_cast<std::size_t>(u16(3));
  header.colors = static_cast<std::size_t>(u16(5));
  header.color_bits = u8(7);
  header.width = u16(12);
  header.height = u16(14);
  header.bits = u8(16);
  header.from_right = (u8(17) & 0x10) != 0;
  header.from_top = (u8(17) & 0x20) != 0;
  return header;
}

bool is_color(int bits) { return bits == 15 || bits == 16 || bits == 24 || bits == 32; }

/// Red, green, blue and alpha; that of 16 bits is left out, since writers do not agree what it means.
std::array<std::uint8_t, 4> color_of(std::span<const std::byte> in) {
  const auto byte = [&](std::size_t i) { return std::to_integer<std::uint8_t>(in[i]); };
  if (in.size() == 2) {
    const int value = byte(0) | byte(1) << 8;
    const auto level = [value](int shift) { return static_cast<std::uint8_t>((value >> shift & 31) * 255 / 31); };
    return {level(10), level(5), level(0), 255};
  }
  return {byte(2), byte(1), byte(0), in.size() == 4 ? byte(3) : std::uint8_t{255}};
}

}  // namespace

bool looks_like_tga(std::span<const std::byte> bytes) {
  if (bytes.size() <= kHeaderBytes || bytes[1] > std::byte{1} || bytes[2] > std::byte{11}) return false;
  const Header header = read_header(bytes);
  if (header.width == 0 || header.height == 0 || header.has_palette != (header.kind == kPalette)) return false;
  const bool possible = header.kind == kPalette ? header.bits == 8 && is_color(header.color_bits)
                        : header.kind == kRgb   ? is_color(header.bits)
                                                : header.kind == kGrey && (header.bits == 8 || header.bits == 16);
  if (!possible) return false;
  const std::int64_t pixels = std::int64_t{header.width} * header.height;
  const auto pixel_bytes = static_cast<std::int64_t>(header.pixel_bytes());
  constexpr int kLongestRun = 128;
  const std::int64_t least =
      header.compressed ? (pixels + kLongestRun - 1) / kLongestRun * (1 + pixel_bytes) : pixels * pixel_bytes;
  // A quarter of the pixels is enough to tell a shortened TGA from noise.
  return static_cast<std::int64_t>(bytes.size() - kHeaderBytes) >= least / 4;
}

void decode_tga(std::span<const std::byte> bytes, std::string_view name, const DecodeOptions& options, int channels,
                int& height, int& width, std::vector<std::uint8_t>& pixels) {
  const Header header = read_header(bytes);
  const std::int64_t count = std::int64_t{header.height} * header.width;
  require_size(name, header.height, header.width, options.max_pixels);
  std::span<const std::byte> rest = bytes.subspan(kHeaderBytes);
  const auto take = [&](std::size_t size) {
    if (size > rest.size()) fail_truncated(name, "TGA");
    const std::span<const std::byte> taken = rest.first(size);
    rest = rest.subspan(size);
    return taken;
  };
  take(header.comment_bytes);
  std::array<std::array<std::uint8_t, 4>, 256> palette{};
  for (auto& color : palette) color[3] = 255;
  if (header.has_palette) {
    const auto stored = take(header.colors * header.color_bytes());
    for (std::size_t i = 0; i < header.colors && header.first_color + i < palette.size(); ++i) {
      palette[header.first_color + i] = color_of(stored.subspan(i * header.color_bytes(), header.color_bytes()));
    }
  }
  const auto next_color = [&]() -> std::array<std::uint8_t, 4> {
    const auto in = take(header.pixel_bytes());
    const auto first = std::to_integer<std::uint8_t>(in[0]);
    if (header.kind == kPalette) return palette[first];
    if (header.kind == kRgb) return color_of(in);
    return {first, first, first, in.size() == 2 ? std::to_integer<std::uint8_t>(in[1]) : std::uint8_t{255}};
  };

  const auto large = lock_if_large(count);
  height = header.height;
  width = header.width;
  pixels.resize(static_cast<std::size_t>(count * channels));
  std::int64_t run = 0;  // pixels until the next packet, which are one colour or have one each
  bool repeated = false;
  std::array<std::uint8_t, 4> color{};
  for (std::int64_t y = 0; y < height; ++y) {
    std::uint8_t* out = pixels.data() + (header.from_top ? y : height - 1 - y) * width * channels;
    if (header.from_right) out += std::int64_t{width - 1} * channels;
    for (int x = 0; x < width; ++x, --run) {
      const bool starts = header.compressed && run == 0;
      if (starts) {
        const int packet = std::to_integer<int>(take(1)[0]);
        run = (packet & 127) + 1;
        repeated = (packet & 128) != 0;
      }
      if (starts || !repeated) color = next_color();
      std::copy_n(color.data(), channels, out);
      out += header.from_right ? -channels : channels;
    }
  }
}

}  // namespace dino
