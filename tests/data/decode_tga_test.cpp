#include "data/decode.h"

#include "tests/support/catch.h"
#include "tests/support/decoded.h"
#include "tests/support/pictures.h"

#include <map>

using namespace dino;
using namespace dino::test;

TEST_CASE("TGA: every kind, from any corner, with and without runs, as Pillow shows them") {
  struct Options {
    int kind;
    int bits;
    int corner = 0x20;  // 0x20: the rows from the top, 0x10: each from the right
    int first_color = 0;
    int colors = 0;
    int color_bits = 0;
  };
  const auto tga = [](const Options& options, int width, int height, const std::string& rest,
                      const std::string& comment = "") {
    std::string text = {static_cast<char>(comment.size()), static_cast<char>(options.colors != 0),
                        static_cast<char>(options.kind)};
    text += two_bytes(options.first_color) + two_bytes(options.colors) + static_cast<char>(options.color_bits) +
            std::string(4, '\0') + two_bytes(width) + two_bytes(height);
    return text + static_cast<char>(options.bits) + static_cast<char>(options.corner) + comment + rest;
  };
  // A picture of 2×3 pixels in grey; what is stored first, for each corner.
  const std::string stored("\1\2\3\4\5\6", 6);
  for (const auto& [corner, expected] : std::map<int, std::vector<int>>{{0x20, {1, 2, 3, 4, 5, 6}},
                                                                        {0x00, {5, 6, 3, 4, 1, 2}},
                                                                        {0x30, {2, 1, 4, 3, 6, 5}},
                                                                        {0x10, {6, 5, 4, 3, 2, 1}}}) {
    CAPTURE(corner);
    std::vector<int> rgb;
    for (const int grey : expected) rgb.insert(rgb.end(), 3, grey);
    CHECK(pixels(decoded(as_bytes(tga({3, 8, corner}, 2, 3, stored)))) == rgb);
    CHECK(pixels(decoded(as_bytes(tga({11, 8, corner}, 2, 3, "\x05" + stored, "a comment")))) == rgb);
  }
  // Two pixels; a run of three, across the end of a row, and one by itself.
  CHECK(pixels(decoded(as_bytes(tga({10, 24}, 2, 2, std::string("\x82\3\2\1\0\6\5\4", 8))))) ==
        std::vector<int>{1, 2, 3, 1, 2, 3, 1, 2, 3, 4, 5, 6});
  CHECK(pixels_with_alpha(as_bytes(tga({2, 32}, 2, 1, std::string("\3\2\1\x77\6\5\4\0", 8)))) ==
        std::vector<int>{1, 2, 3, 0x77, 4, 5, 6, 0});
  CHECK(pixels_with_alpha(as_bytes(tga({3, 16}, 2, 1, "\3\x77\4\x78"))) ==
        std::vector<int>{3, 3, 3, 0x77, 4, 4, 4, 0x78});
  // Red 31, green 16, blue 1 of 31; and the highest bit, which writers set as they like.
  CHECK(pixels_with_alpha(as_bytes(tga({2, 16}, 2, 1, std::string("\x01\x7e\0\x80", 4)))) ==
        std::vector<int>{255, 131, 8, 255, 0, 0, 0, 255});
  // A palette of colours 5 and 6; any other is black.
  CHECK(pixels_with_alpha(as_bytes(tga({1, 8, 0x20, 5, 2, 24}, 4, 1, "abcdef\4\5\6\7"))) ==
        std::vector<int>{0, 0, 0, 255, 'c', 'b', 'a', 255, 'f', 'e', 'd', 255, 0, 0, 0, 255});
  CHECK(pixels_with_alpha(as_bytes(tga({9, 8, 0x20, 0, 2, 32}, 4, 1, std::string("abcdefgh\x83\1", 10)))) ==
        std::vector<int>{'g', 'f', 'e', 'h', 'g', 'f', 'e', 'h', 'g', 'f', 'e', 'h', 'g', 'f', 'e', 'h'});
  CHECK(pixels(decoded(as_bytes(tga({1, 8, 0x20, 255, 2, 16}, 1, 1, std::string("\x01\x7e\0\0\xff", 5))))) ==
        std::vector<int>{255, 131, 8});

  for (const Options& options : {Options{2, 24}, {10, 24}, {3, 8}, {1, 8, 0, 0, 3, 24}}) {
    const std::string whole = tga(options, 8, 8, std::string(8 * 8 * 4 + 9, '\0'));
    CAPTURE(options.kind);
    CHECK(decode_error(as_bytes(whole)).empty());
    const std::size_t needed = options.kind == 10  ? 64 * 4
                               : options.kind == 2 ? 64 * 3
                               : options.kind == 3 ? 64
                                                   : 64 + 9;
    CHECK(contains(decode_error(as_bytes(tga(options, 8, 8, std::string(needed - 1, '\0')))), "truncated TGA"));
  }
  CHECK(contains(decode_error(as_bytes(tga({2, 24}, 8, 8, std::string(190, 'a'), std::string(9, 'c')))),
                 "truncated TGA"));
  // Kinds that there are not.
  for (const Options& options : {Options{1, 16, 0x20, 0, 2, 24},
                                 {1, 8, 0x20, 0, 2, 8},
                                 {2, 8},
                                 {3, 24},
                                 {4, 8},
                                 {0, 8},
                                 {2, 24, 0x20, 0, 2, 24},
                                 {1, 8}}) {
    CAPTURE(options.kind, options.bits);
    CHECK(contains(decode_error(as_bytes(tga(options, 2, 2, std::string(200, '\0')))), "not a picture"));
  }
}
