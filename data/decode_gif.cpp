// The first frame of a GIF (https://www.w3.org/Graphics/GIF/spec-gif89a.txt). stb_image reads them as well, but shows
// black or the background where a pixel is transparent, and takes less than a whole frame for one.
#include "data/decode_gif.h"

#include "data/large_picture.h"
#include "data/picture_errors.h"

#include <algorithm>
#include <array>
#include <numeric>

namespace dino {
namespace {

class Reader {
 public:
  Reader(std::span<const std::byte> bytes, std::string_view name) : bytes_(bytes), name_(name) {}

  std::span<const std::byte> take(std::size_t count) {
    if (count > bytes_.size()) truncated();
    const std::span<const std::byte> taken = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return taken;
  }
  int u8() { return std::to_integer<int>(take(1)[0]); }
  int u16() {
    const int low = u8();
    return low | u8() << 8;
  }
  /// The next part of a sequence that ends with an empty one.
  std::span<const std::byte> block() { return take(static_cast<std::size_t>(u8())); }
  /// Red, green and blue of each colour; none where the flags say so.
  std::span<const std::byte> colors(int flags) {
    return (flags & 0x80) != 0 ? take(std::size_t{3} << ((flags & 7) + 1)) : std::span<const std::byte>();
  }

  [[noreturn]] void truncated() const { fail_truncated(name_, "GIF"); }
  [[noreturn]] void broken(std::string_view reason) const { fail_broken(name_, "GIF", reason); }

 private:
  std::span<const std::byte> bytes_;
  std::string_view name_;
};

/// `count` pixels, compressed by LZW with codes of up to 12 bits, the lowest first.
std::vector<std::uint8_t> decompress(Reader& in, std::size_t count) {
  struct Entry {
    std::uint16_t prefix;
    std::uint16_t length;
    std::uint8_t first;
    std::uint8_t last;
  };
  constexpr int kMostBits = 12;
  constexpr unsigned kNone = 1u << kMostBits;
  std::array<Entry, kNone> table;
  const int pixel_bits = in.u8();
  if (pixel_bits < 2 || pixel_bits > 8) in.broken("its codes have an impossible size");
  const unsigned clear = 1u << pixel_bits;
  for (unsigned i = 0; i < clear; ++i) table[i] = {0, 1, static_cast<std::uint8_t>(i), static_cast<std::uint8_t>(i)};

  std::vector<std::uint8_t> pixels(count);
  std::span<const std::byte> block;
  std::uint32_t bits = 0;
  int available = 0;
  int code_bits = pixel_bits + 1;
  unsigned next = clear + 2;  // the entry to be filled
  unsigned previous = kNone;
  for (std::size_t filled = 0; filled < count;) {
    while (available < code_bits) {
      if (block.empty()) block = in.block();
      if (block.empty()) in.truncated();
      bits |= std::to_integer<std::uint32_t>(block.front()) << available;
      available += 8;
      block = block.subspan(1);
    }
    const unsigned code = bits & ((1u << code_bits) - 1);
    bits >>= code_bits;
    available -= code_bits;
    if (code == clear) {
      code_bits = pixel_bits + 1;
      next = clear + 2;
      previous = kNone;
      continue;
    }
    if (code == clear + 1) in.truncated();
    if (code > next || (previous == kNone && code > clear)) in.broken("it has a code that means nothing");
    if (previous != kNone && next < kNone) {
      // The new string is the previous one and the first pixel of this one, which may be the new one itself.
      table[next] = {static_cast<std::uint16_t>(previous), static_cast<std::uint16_t>(table[previous].length + 1),
                     table[previous].first, table[code == next ? previous : code].first};
      if (++next == 1u << code_bits && code_bits < kMostBits) ++code_bits;
    }
    const std::size_t end = filled + table[code].length;
    unsigned entry = code;
    for (std::size_t at = end; at-- > filled; entry = table[entry].prefix) {
      if (at < count) pixels[at] = table[entry].last;
    }
    filled = end;
    previous = code;
  }
  return pixels;
}

/// The rows of a frame in the order in which they are stored.
std::vector<int> row_order(int height, bool interlaced) {
  std::vector<int> rows;
  if (!interlaced) {
    rows.resize(static_cast<std::size_t>(height));
    std::iota(rows.begin(), rows.end(), 0);
    return rows;
  }
  constexpr std::array<std::array<int, 2>, 4> kPasses = {{{0, 8}, {4, 8}, {2, 4}, {1, 2}}};  // from, step
  for (const auto& [from, step] : kPasses) {
    for (int row = from; row < height; row += step) rows.push_back(row);
  }
  return rows;
}

}  // namespace

void decode_gif(std::span<const std::byte> bytes, std::string_view name, const DecodeOptions& options, int channels,
                int& height, int& width, std::vector<std::uint8_t>& pixels) {
  Reader in(bytes, name);
  in.take(6);  // the magic number
  const int columns = in.u16();
  const int rows = in.u16();
  const int flags = in.u8();
  in.take(2);  // background, shape of a pixel
  if (columns == 0 || rows == 0) in.broken("it has no pixels");
  const std::int64_t count = std::int64_t{rows} * columns;
  require_size(name, rows, columns, options.max_pixels);
  std::span<const std::byte> colors = in.colors(flags);
  int transparent = -1;
  for (int kind = in.u8(); kind != ','; kind = in.u8()) {
    if (kind != '!') in.broken("it has no frame where one should be");
    constexpr int kGraphicControl = 0xF9;
    const int label = in.u8();
    for (auto block = in.block(); !block.empty(); block = in.block()) {
      if (label != kGraphicControl || block.size() != 4) continue;
      transparent = (block[0] & std::byte{1}) != std::byte{0} ? std::to_integer<int>(block[3]) : -1;
    }
  }
  const int left = in.u16();
  const int top = in.u16();
  const int frame_columns = in.u16();
  const int frame_rows = in.u16();
  const int frame_flags = in.u8();
  if (frame_columns == 0 || frame_rows == 0) in.broken("its first frame has no pixels");
  if (left + frame_columns > columns || top + frame_rows > rows) in.broken("its first frame is larger than its screen");
  if (const auto own = in.colors(frame_flags); !own.empty()) colors = own;
  if (colors.empty()) in.broken("it has no colours");
  std::array<std::array<std::uint8_t, 4>, 256> palette{};
  for (std::size_t i = 0; i < palette.size(); ++i) {
    for (std::size_t c = 0; c < 3 && i * 3 < colors.size(); ++c) {
      palette[i][c] = std::to_integer<std::uint8_t>(colors[i * 3 + c]);
    }
    palette[i][3] = static_cast<int>(i) == transparent ? 0 : 255;
  }

  const auto large = lock_if_large(count);
  const std::vector<std::uint8_t> frame =
      decompress(in, static_cast<std::size_t>(frame_rows) * static_cast<std::size_t>(frame_columns));
  height = rows;
  width = columns;
  pixels.resize(static_cast<std::size_t>(count * channels));
  if (frame_columns != columns || frame_rows != rows) {
    const auto& around = palette[static_cast<std::size_t>(std::max(transparent, 0))];
    for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = around[i % static_cast<std::size_t>(channels)];
  }
  const std::uint8_t* index = frame.data();
  for (const int row : row_order(frame_rows, (frame_flags & 0x40) != 0)) {
    std::uint8_t* out = pixels.data() + (std::int64_t{top + row} * columns + left) * channels;
    for (int x = 0; x < frame_columns; ++x, out += channels) {
      std::copy_n(palette[*index++].data(), channels, out);
    }
  }
}

}  // namespace dino
