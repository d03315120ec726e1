// Binary PGM and PPM (https://netpbm.sourceforge.net/doc/ppm.html). stb_image reads them as well, but beyond its memory
// where they have 16 bits, and lets their numbers overflow.
#include "data/decode_pnm.h"

#include "data/large_picture.h"
#include "data/picture_errors.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>

namespace dino {
namespace {

/// The numbers of a header, with white space and comments between them.
class Header {
 public:
  explicit Header(std::span<const std::byte> bytes) : bytes_(bytes) {}

  /// -1 where there is no number, or a larger one than a picture could have.
  int next() {
    constexpr int kLargest = std::numeric_limits<int>::max();
    while (is_space(peek()) || peek() == '#') {
      if (peek() == '#') {
        while (peek() != '\n' && peek() != kEnd) ++at_;
      } else {
        ++at_;
      }
    }
    if (peek() < '0' || peek() > '9') return -1;
    std::int64_t value = 0;
    for (; peek() >= '0' && peek() <= '9'; ++at_) {
      value = value * 10 + (peek() - '0');
      if (value > kLargest) return -1;
    }
    return static_cast<int>(value);
  }
  /// What follows the one white space behind the last number; nothing where there is none.
  std::optional<std::span<const std::byte>> rest() const {
    if (!is_space(peek())) return std::nullopt;
    return bytes_.subspan(at_ + 1);
  }

 private:
  static constexpr int kEnd = -1;
  static bool is_space(int c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
  int peek() const { return at_ < bytes_.size() ? std::to_integer<int>(bytes_[at_]) : kEnd; }

  std::span<const std::byte> bytes_;
  std::size_t at_ = 2;  // behind the magic number
};

}  // namespace

void decode_pnm(std::span<const std::byte> bytes, std::string_view name, const DecodeOptions& options, int channels,
                int& height, int& width, std::vector<std::uint8_t>& pixels) {
  const std::size_t stored = bytes[1] == std::byte{'6'} ? 3 : 1;
  Header header(bytes);
  const int columns = header.next();
  const int rows = header.next();
  const int largest = header.next();
  const auto samples = header.rest();
  if (columns <= 0 || rows <= 0 || largest <= 0 || !samples) fail_broken(name, "PNM", "its header makes no sense");
  require(largest <= 255, "decode", "{}: a PNM of 16 bits a channel cannot be read; try one of 8 bits", name);
  const std::int64_t count = std::int64_t{rows} * columns;
  require_size(name, rows, columns, options.max_pixels);
  if (samples->size() / stored < static_cast<std::size_t>(count)) fail_truncated(name, "PNM");
  const auto large = lock_if_large(count);
  height = rows;
  width = columns;
  pixels.resize(static_cast<std::size_t>(count) * static_cast<std::size_t>(channels));
  // The nearest level, the even one of two: as Pillow has it.
  std::array<std::uint8_t, 256> levels{};
  for (int i = 0; i < 256; ++i) {
    const int value = std::min(i, largest) * 255;
    const int level = value / largest;
    const int twice_rest = value % largest * 2;
    const bool up = twice_rest > largest || (twice_rest == largest && level % 2 != 0);
    levels[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(level + (up ? 1 : 0));
  }
  const std::byte* in = samples->data();
  std::uint8_t* out = pixels.data();
  for (std::int64_t i = 0; i < count; ++i, in += stored, out += channels) {
    for (std::size_t c = 0; c < 3; ++c) {
      out[c] = levels[std::to_integer<std::size_t>(in[stored == 3 ? c : 0])];
    }
    if (channels == 4) out[3] = 255;
  }
}

}  // namespace dino
