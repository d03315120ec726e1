#include "data/decode.h"

#include "tests/support/catch.h"
#include "tests/support/decoded.h"
#include "tests/support/pictures.h"

using namespace dino;
using namespace dino::test;

TEST_CASE("pixels beyond a palette are black") {
  // A PNG of 2 colours whose four pixels name colours 0 to 3.
  const auto png = handmade_png(4, 1, 8, 3, std::string("\0\0\1\2\3", 5), "abcdef");
  CHECK(pixels(decoded(png)) == std::vector<int>{'a', 'b', 'c', 'd', 'e', 'f', 0, 0, 0, 0, 0, 0});
  const std::string bmp = std::string("BM\x4a\0\0\0\0\0\0\0\x3e\0\0\0\x28\0\0\0\4\0\0\0\1\0\0\0\1\0\x08\0", 30) +
                          std::string(24, '\0') + std::string("abc\0def\0", 8) + std::string("\0\1\2\xff", 4);
  CHECK(pixels(decoded(as_bytes(bmp))) == std::vector<int>{'c', 'b', 'a', 'f', 'e', 'd', 0, 0, 0, 0, 0, 0});
}

TEST_CASE("BMP with palettes: every size of header and of pixels, whatever lies between colours and pixels") {
  const auto number = [](std::size_t bytes, unsigned value) {
    std::string text;
    for (std::size_t i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i));
    return text;
  };
  // 4×1 pixels. Colour i is (i + 1, 100, i) in the order of a BMP: blue, green, red.
  const auto bmp = [&](unsigned header, unsigned bits, unsigned stored, unsigned used, const std::string& between,
                       const std::string& row) {
    const unsigned color_bytes = header == 12 ? 3 : 4;
    std::string text = "BM" + number(8, 0) + number(4, 14 + header + stored * color_bytes + unsigned(between.size())) +
                       number(4, header);
    const std::size_t side = header == 12 ? 2 : 4;
    text += number(side, 4) + number(side, 1) + number(2, 1) + number(2, bits);
    if (header != 12) text += number(16, 0) + number(4, used);
    text.resize(14 + header, '\0');
    for (unsigned i = 0; i < stored; ++i) text += number(1, i + 1) + number(1, 100) + number(color_bytes - 2, i);
    return text + between + row;
  };
  const auto colors = [](std::vector<int> indices) {
    std::vector<int> rgb;
    for (const int i : indices) rgb.insert(rgb.end(), {i, 100, (i + 1) % 256});
    return rgb;
  };
  for (const unsigned header : {12u, 40u, 52u, 56u, 64u, 108u, 124u}) {
    CAPTURE(header);
    CHECK(pixels(decoded(as_bytes(bmp(header, 8, 256, 0, "", {"\0\x64\xfc\xff", 4})))) == colors({0, 100, 252, 255}));
    CHECK(pixels(decoded(as_bytes(bmp(header, 4, 16, 0, "", {"\x0f\x71\0\0", 4})))) == colors({0, 15, 7, 1}));
    CHECK(pixels(decoded(as_bytes(bmp(header, 1, 2, 0, "", {"\x60\0\0\0", 4})))) == colors({0, 1, 1, 0}));
    // Fewer colours than pixels could name; the last pixel's is missing.
    std::vector<int> expected = colors({0, 2, 1});
    expected.insert(expected.end(), {0, 0, 0});
    CHECK(pixels(decoded(as_bytes(bmp(header, 8, 3, 0, "", {"\0\2\1\3", 4})))) == expected);
    CHECK(contains(decode_error(as_bytes(bmp(header, 8, 256, 0, "", {"\0\x64\xfc", 3}))), "truncated BMP"));
    CHECK(contains(decode_error(as_bytes(bmp(header, 8, 256, 0, "", ""))), "truncated BMP"));
    CHECK(contains(decode_error(as_bytes(bmp(header, 8, 0, 0, "", std::string(2000, '\1')))), "makes no sense"));
    if (header == 12) continue;
    // Three colours are used; behind them lie others' bytes, more than a palette's.
    CHECK(pixels(decoded(as_bytes(bmp(header, 8, 3, 3, std::string(1100, 'x'), {"\0\2\1\3", 4})))) == expected);
  }
  // stb takes what is negative for none.
  for (const unsigned compression : {1u, 2u, 3u, 4u, 0xff000000u}) {
    const std::string compressed = bmp(40, 8, 256, 0, "", {"\0\x64\xfc\xff", 4}).replace(30, 4, number(4, compression));
    CHECK(contains(decode_error(as_bytes(compressed)),
                   fmt::format("compressed BMP cannot be read (its header says kind {})", compression)));
  }
  for (const unsigned header : {20u, 39u}) {
    CHECK(contains(decode_error(as_bytes(bmp(header, 8, 256, 0, "", {"\0\x64\xfc\xff", 4}))), "broken BMP"));
  }
}

TEST_CASE("BMP of 16, 24 and 32 bits: every header, masks, bytes before the pixels") {
  const auto number = [](std::size_t bytes, unsigned value) {
    std::string text;
    for (std::size_t i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i));
    return text;
  };
  // 2×1 pixels.
  const auto bmp = [&](unsigned header, unsigned bits, const std::vector<unsigned>& masks, const std::string& between,
                       const std::string& row) {
    const std::size_t side = header == 12 ? 2 : 4;
    std::string text = number(4, header) + number(side, 2) + number(side, 1) + number(2, 1) + number(2, bits);
    if (header != 12) text += number(4, masks.empty() ? 0 : 3);
    if (!masks.empty()) {
      text.resize(40, '\0');
      for (const unsigned mask : masks) text += number(4, mask);
    }
    text.resize(std::max<std::size_t>(text.size(), header), '\0');
    return "BM" + number(8, 0) + number(4, 14 + unsigned(text.size() + between.size())) + text + between + row;
  };
  for (const unsigned header : {12u, 40u, 52u, 56u, 64u, 108u, 124u}) {
    for (const std::string& between : {std::string(), std::string(7, 'x')}) {
      CAPTURE(header, between);
      // Red 31, green 16, blue 1 of 31; and the highest bit, which has no meaning.
      CHECK(pixels(decoded(as_bytes(bmp(header, 16, {}, between, {"\x01\x7e\0\x80", 4})))) ==
            std::vector<int>{255, 131, 8, 0, 0, 0});
      CHECK(pixels(decoded(as_bytes(bmp(header, 24, {}, between, {"\1\2\3\4\5\6", 6})))) ==
            std::vector<int>{3, 2, 1, 6, 5, 4});
      // The fourth byte is nothing, least of all alpha.
      CHECK(pixels_with_alpha(as_bytes(bmp(header, 32, {}, between, {"\1\2\3\x77\4\5\6\0", 8}))) ==
            std::vector<int>{3, 2, 1, 255, 6, 5, 4, 255});
      if (header == 12) continue;
      CHECK(pixels(decoded(as_bytes(bmp(header, 16, {0xf800, 0x07e0, 0x001f}, between, {"\x01\xfa\x20\0", 4})))) ==
            std::vector<int>{255, 64 * 255 / 252, 8, 0, 255 / 63, 0});
      CHECK(pixels(decoded(as_bytes(bmp(header, 32, {0xff, 0xff00, 0xff0000}, between, {"\1\2\3\x77\4\5\6\0", 8})))) ==
            std::vector<int>{1, 2, 3, 4, 5, 6});
      CHECK(contains(decode_error(as_bytes(bmp(header, 24, {0xff, 0xff00, 0xff0000}, between, {"\1\2\3\4\5\6", 6}))),
                     "compressed BMP"));
      CHECK(
          contains(decode_error(as_bytes(bmp(header, 32, {0x3ff, 0xffc00, 0x3ff00000}, between, std::string(8, 'a')))),
                   "colours have the bits 3ff"));
      CHECK(contains(decode_error(as_bytes(bmp(header, 16, {0x5, 0xf0, 0xf00}, between, "abcd"))), "the bits 5 "));
      CHECK(contains(decode_error(as_bytes(bmp(header, 16, {0, 0xf0, 0xf00}, between, "abcd"))), "the bits 0 "));
    }
    CHECK(contains(decode_error(as_bytes(bmp(header, 24, {}, "", "abcde"))), "truncated BMP"));
    CHECK(contains(decode_error(as_bytes(bmp(header, 20, {}, "", "abcdef"))), "makes no sense"));
    // Pixels that begin within the header.
    for (const unsigned first : {0u, 13u + header}) {
      CHECK(contains(decode_error(as_bytes(bmp(header, 24, {}, "", "abcdef").replace(10, 4, number(4, first)))),
                     "makes no sense"));
    }
    if (header < 56) continue;
    CHECK(pixels_with_alpha(as_bytes(bmp(header, 32, {0xff, 0xff00, 0xff0000, 0xff000000}, "",
                                         {"\1\2\3\x77\4\5\6\0", 8}))) == std::vector<int>{1, 2, 3, 0x77, 4, 5, 6, 0});
  }
}
