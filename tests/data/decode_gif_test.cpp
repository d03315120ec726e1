#include "data/decode.h"

#include "tests/support/catch.h"
#include "tests/support/decoded.h"
#include "tests/support/pictures.h"

#include <map>

using namespace dino;
using namespace dino::test;

namespace {

/// GIF's compression as the books have it, with a new table wherever `full` codes are used up.
std::string gif_codes(std::string_view pixels, int pixel_bits, std::size_t full = 4096, bool clears = true) {
  std::string bytes;
  std::size_t bits = 0;
  std::size_t code_bits = 0;
  const auto put = [&](std::size_t code) {
    for (std::size_t bit = 0; bit < code_bits; ++bit, ++bits) {
      if (bits % 8 == 0) bytes += '\0';
      bytes.back() = static_cast<char>(bytes.back() | static_cast<int>(code >> bit & 1) << bits % 8);
    }
  };
  std::map<std::string, std::size_t> table;
  const std::size_t clear = std::size_t{1} << pixel_bits;
  const auto restart = [&] {
    table.clear();
    for (std::size_t i = 0; i < clear; ++i) table[std::string(1, static_cast<char>(i))] = i;
    code_bits = static_cast<std::size_t>(pixel_bits) + 1;
  };
  restart();
  put(clear);
  std::string known;
  for (const char pixel : pixels) {
    if (table.count(known + pixel) != 0) {
      known += pixel;
      continue;
    }
    put(table[known]);
    const std::size_t next = table.size() + 2;
    if (next < full) {
      table[known + pixel] = next;
      if (next == std::size_t{1} << code_bits && code_bits < 12) ++code_bits;
    } else if (clears) {
      put(clear);
      restart();
    }
    known = pixel;
  }
  put(table[known]);
  put(clear + 1);
  std::string blocks;
  for (std::size_t at = 0; at < bytes.size(); at += 255) {
    const std::string block = bytes.substr(at, 255);
    blocks += static_cast<char>(block.size()) + block;
  }
  return static_cast<char>(pixel_bits) + blocks + '\0';
}

/// The start of a GIF, with a palette of 2 << `size` colours when there is one.
std::string gif_screen(int width, int height, const std::string& palette, int size, int background = 0) {
  const int flags = palette.empty() ? 0 : 0x80 | size;
  return "GIF89a" + two_bytes(width) + two_bytes(height) + static_cast<char>(flags) + static_cast<char>(background) +
         '\0' + palette;
}

std::string gif_frame(int x, int y, int width, int height, int flags, const std::string& codes,
                      const std::string& palette = "") {
  return "," + two_bytes(x) + two_bytes(y) + two_bytes(width) + two_bytes(height) + static_cast<char>(flags) + palette +
         codes;
}

std::string gif_transparent(int color) { return std::string("!\xf9\4\1\0\0", 6) + static_cast<char>(color) + '\0'; }

}  // namespace

TEST_CASE("GIF: the published example, and pictures of every size of code") {
  // Matthew Flickinger, "What's In A GIF": ten by ten pixels of four colours.
  const std::string flickinger =
      "1111122222111112222211111222221110000222111000022222200001112220000111222221111122222111112222211111";
  std::string indices;
  for (const char c : flickinger) indices += static_cast<char>(c - '0');
  const std::string codes(
      "\x02\x16\x8C\x2D\x99\x87\x2A\x1C\xDC\x33\xA0\x02\x75\xEC\x95\xFA\xA8\xDE\x60\x8C\x04\x91\x4C\x01\0", 25);
  CHECK(gif_codes(indices, 2) == codes);
  const auto shown = [](const std::string& some, const std::string& palette) {
    std::vector<int> rgb;
    for (const char c : some) {
      for (std::size_t i = 0; i < 3; ++i) {
        rgb.push_back(static_cast<unsigned char>(palette[static_cast<unsigned char>(c) * 3u + i]));
      }
    }
    return rgb;
  };
  const std::string four("\xff\xff\xff\xff\0\0\0\0\xff\0\0\0", 12);
  CHECK(pixels(decoded(as_bytes(gif_screen(10, 10, four, 1) + gif_frame(0, 0, 10, 10, 0, codes) + ";"))) ==
        shown(indices, four));

  std::uint32_t state = 1;
  for (int bits = 2; bits <= 8; ++bits) {
    std::string palette;
    for (int i = 0; i < 3 << bits; ++i) palette += static_cast<char>(i * 7 + bits);
    std::string noise;
    std::string plain;
    for (int i = 0; i < 150 * 100; ++i) {
      noise += static_cast<char>((state = state * 1664525u + 1013904223u) >> 24 & ((1u << bits) - 1));
      plain += static_cast<char>(i / 5000);
    }
    for (const std::string& some : {noise, plain}) {
      // With a table that is emptied when it is full, earlier, or never.
      for (const auto& [full, clears] :
           {std::pair(std::size_t{4096}, true), {std::size_t{600}, true}, {std::size_t{4096}, false}}) {
        CAPTURE(bits, full, clears);
        const std::string gif = gif_screen(150, 100, palette, bits - 1) +
                                gif_frame(0, 0, 150, 100, 0, gif_codes(some, bits, full, clears)) + ";";
        REQUIRE(pixels(decoded(as_bytes(gif))) == shown(some, palette));
      }
    }
  }
}

TEST_CASE("GIF: transparent pixels, small frames and colours of their own as Pillow shows them") {
  const std::string palette = "abcdefghijkl";
  const std::string codes = gif_codes(std::string("\0\1\2\3", 4), 2);
  const std::string whole = gif_frame(0, 0, 2, 2, 0, codes);
  const std::vector<int> rgb = {'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l'};
  // The background colour is the second.
  const std::string screen = gif_screen(2, 2, palette, 1, 1);
  CHECK(pixels(decoded(as_bytes(screen + whole))) == rgb);
  // A transparent pixel has its colour; with alpha it is transparent.
  const std::string clear = screen + gif_transparent(2) + whole;
  CHECK(pixels(decoded(as_bytes(clear))) == rgb);
  CHECK(pixels_with_alpha(as_bytes(clear)) ==
        std::vector<int>{'a', 'b', 'c', 255, 'd', 'e', 'f', 255, 'g', 'h', 'i', 0, 'j', 'k', 'l', 255});
  // The frame's own palette; another frame behind it, and bytes that are cut off, have no say.
  CHECK(pixels(decoded(as_bytes(screen + gif_frame(0, 0, 2, 2, 0x81, codes, "ABCDEFGHIJKL") + whole.substr(0, 8)))) ==
        std::vector<int>{'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J', 'K', 'L'});
  CHECK(pixels(decoded(as_bytes(gif_screen(2, 2, "", 0) + gif_frame(0, 0, 2, 2, 0x81, codes, palette)))) == rgb);
  // Around a smaller frame: the first colour, else the transparent one.
  const std::string small = gif_frame(1, 0, 1, 1, 0, gif_codes("\3", 2));
  CHECK(pixels_with_alpha(as_bytes(screen + small)) ==
        std::vector<int>{'a', 'b', 'c', 255, 'j', 'k', 'l', 255, 'a', 'b', 'c', 255, 'a', 'b', 'c', 255});
  CHECK(pixels_with_alpha(as_bytes(screen + gif_transparent(2) + small)) ==
        std::vector<int>{'g', 'h', 'i', 0, 'j', 'k', 'l', 255, 'g', 'h', 'i', 0, 'g', 'h', 'i', 0});
  // Colours beyond the palette are black. Comments are passed over.
  CHECK(pixels(decoded(as_bytes(gif_screen(2, 2, "abcdef", 0) + std::string("!\xfe\2hi\1!\0", 8) + whole))) ==
        std::vector<int>{'a', 'b', 'c', 'd', 'e', 'f', 0, 0, 0, 0, 0, 0});
  // Interlaced: rows 0, 8, 4, 2, 6 and the odd ones.
  std::vector<int> column;
  for (const int row : {0, 5, 3, 6, 2, 7, 4, 8, 1, 9}) column.insert(column.end(), 3, row);
  const std::string greys("\0\0\0\1\1\1\2\2\2\3\3\3\4\4\4\5\5\5\6\6\6\7\7\7\x08\x08\x08\x09\x09\x09", 30);
  const std::string rows("\0\1\2\3\4\5\6\7\x08\x09", 10);
  CHECK(pixels(decoded(as_bytes(gif_screen(1, 10, greys + std::string(18, 'x'), 3) +
                                gif_frame(0, 0, 1, 10, 0x40, gif_codes(rows, 4))))) == column);
}

TEST_CASE("GIF: what is not a whole, sound frame is refused") {
  const auto error = [](const std::string& gif) { return decode_error(as_bytes(gif)); };
  const std::string screen = gif_screen(2, 2, "abcdefghijkl", 1);
  const std::string codes = gif_codes(std::string("\0\1\2\3", 4), 2);
  const std::string gif = screen + gif_frame(0, 0, 2, 2, 0, codes);
  REQUIRE(error(gif).empty());
  // Of the codes' last byte, one bit belongs to a pixel; behind it come the code of the end and an empty block.
  for (std::size_t size = 6; size + 1 + 1 < gif.size(); ++size)
    REQUIRE(contains(error(gif.substr(0, size)), "truncated GIF"));
  CHECK(contains(error(screen + gif_frame(0, 0, 2, 2, 0, gif_codes(std::string("\0\1\2", 3), 2))), "truncated GIF"));
  CHECK(contains(error(screen + ";"), "no frame"));
  CHECK(contains(error(screen + gif_frame(1, 0, 2, 2, 0, codes)), "larger than its screen"));
  CHECK(contains(error(screen + gif_frame(0, 1, 2, 2, 0, codes)), "larger than its screen"));
  CHECK(contains(error(screen + gif_frame(0, 0, 0, 2, 0, codes)), "no pixels"));
  CHECK(contains(error(gif_screen(0, 2, "abcdef", 0)), "no pixels"));
  CHECK(contains(error(gif_screen(2, 2, "", 0) + gif_frame(0, 0, 2, 2, 0, codes)), "no colours"));
  CHECK(contains(error(gif_screen(65535, 65535, "abcdef", 0)), "too large; got 65535×65535"));
  for (const char bits : {'\0', '\1', '\x09', '\x0c'}) {
    CHECK(contains(error(screen + gif_frame(0, 0, 2, 2, 0, bits + codes.substr(1))), "impossible size"));
  }
  // Codes of three bits from the lowest: 4 empties the table, 6 is the first that it has not.
  const auto of_codes = [&](int first, int second, int third) {
    const int bits = first | second << 3 | third << 6;
    return screen + gif_frame(0, 0, 2, 2, 0, "\2\2" + two_bytes(bits) + '\0');
  };
  CHECK(contains(error(of_codes(4, 6, 0)), "means nothing"));
  CHECK(contains(error(of_codes(4, 0, 7)), "means nothing"));
  CHECK(contains(error(of_codes(0, 6, 5)), "truncated GIF"));  // three pixels and an end
  CHECK(error(of_codes(1, 6, 1)).empty());                     // the table need not be emptied at first
}
