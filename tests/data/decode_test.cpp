#include "data/decode.h"

#include "data/png.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"
#include "tests/support/pictures.h"
#include "tests/support/temporary_folder.h"

#include <array>
#include <atomic>
#include <cstdlib>
#include <map>
#include <thread>

#include <stb_image_write.h>
#include <zlib.h>

using namespace dino;
using namespace dino::test;

namespace {

Image decoded(std::span<const std::byte> bytes, const DecodeOptions& options = {}) {
  Image image;
  decode_image(bytes, "picture", options, image);
  return image;
}

std::string decode_error(std::span<const std::byte> bytes, const DecodeOptions& options = {}) {
  return error_of([&] { decoded(bytes, options); });
}

/// Largest difference of any byte; huge when the sizes differ.
int distance(const Image& a, const Image& b) {
  if (a.height != b.height || a.width != b.width || a.rgb.size() != b.rgb.size()) return 1000;
  int largest = 0;
  for (std::size_t i = 0; i < a.rgb.size(); ++i) largest = std::max(largest, std::abs(int{a.rgb[i]} - int{b.rgb[i]}));
  return largest;
}

std::vector<int> pixels(const Image& image) { return {image.rgb.begin(), image.rgb.end()}; }

/// As much, with alpha.
std::vector<int> pixels_with_alpha(std::span<const std::byte> bytes) {
  const TemporaryFolder folder;
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const RgbaImage image = decode_rgba_file(folder.write("picture", text));
  return {image.rgba.begin(), image.rgba.end()};
}

/// The lower one first.
std::string two_bytes(int value) { return {static_cast<char>(value & 255), static_cast<char>(value >> 8)}; }

std::string bmp_header(int width, int height) {
  const auto u32 = [](int value) {
    std::string text;
    for (int shift = 0; shift < 32; shift += 8) text += static_cast<char>(static_cast<unsigned>(value) >> shift & 255);
    return text;
  };
  return "BM" + u32(0) + u32(0) + u32(54) + u32(40) + u32(width) + u32(height) + std::string("\1\0\x18\0", 4) +
         std::string(24, '\0');
}

}  // namespace

TEST_CASE("JPEG: baseline, progressive, grey, CMYK and YCCK give the picture back") {
  const Image picture = gradient_image(37, 53);
  CHECK(distance(decoded(encode_jpeg(picture)), picture) <= 8);
  CHECK(distance(decoded(encode_jpeg(picture, {.progressive = true})), picture) <= 8);
  CHECK(distance(decoded(encode_jpeg(picture, {.components = 4})), picture) <= 8);
  CHECK(distance(decoded(encode_jpeg(picture, {.components = 4, .ycck = true, .progressive = true})), picture) <= 8);
  // The comparison itself sees a wrong picture.
  CHECK(distance(decoded(encode_jpeg(gradient_image(37, 53))), gradient_image(53, 37)) == 1000);

  const Image grey = decoded(encode_jpeg(picture, {.components = 1}));
  int largest = 0;
  for (std::size_t i = 0; i < grey.rgb.size(); i += 3) {
    REQUIRE((grey.rgb[i] == grey.rgb[i + 1] && grey.rgb[i] == grey.rgb[i + 2]));
    largest = std::max(largest, std::abs(int{grey.rgb[i]} - int{picture.rgb[i]}));
  }
  CHECK(grey.width == 53);
  CHECK(largest <= 4);
}

TEST_CASE("JPEG: CMYK with ink mixes as Pillow does") {
  // Stored inverted: cyan ink 155, magenta 55, no yellow, black 100. Pillow's clip(155 - ink * 155 / 255).
  Image image;
  image.resize(8, 8);
  for (std::size_t i = 0; i < image.rgb.size(); i += 3) {
    image.rgb[i] = 100;
    image.rgb[i + 1] = 200;
    image.rgb[i + 2] = 255;
  }
  std::vector<std::byte> bytes = encode_jpeg(image, {.quality = 100, .components = 4});
  const Image bright = decoded(bytes);
  CHECK(std::abs(bright.rgb[0] - 100) <= 1);
  CHECK(std::abs(bright.rgb[1] - 200) <= 1);
  CHECK(std::abs(bright.rgb[2] - 255) <= 1);
}

TEST_CASE("JPEG: every EXIF orientation comes out upright, and stays lying when asked") {
  const Image upright = gradient_image(24, 40);
  for (int orientation = 1; orientation <= 8; ++orientation) {
    // Where the pixel (y, x) of the upright picture lies in the file, by the words of the EXIF standard: which sides of
    // the picture the file's row 0 and column 0 are.
    Image stored;
    const bool turned = orientation >= 5;
    stored.resize(turned ? upright.width : upright.height, turned ? upright.height : upright.width);
    for (int y = 0; y < upright.height; ++y) {
      for (int x = 0; x < upright.width; ++x) {
        const int from_right = upright.width - 1 - x;
        const int from_bottom = upright.height - 1 - y;
        int row = 0;
        int column = 0;
        switch (orientation) {
          case 1: row = y, column = x; break;                     // row 0 top, column 0 left
          case 2: row = y, column = from_right; break;            // top, right
          case 3: row = from_bottom, column = from_right; break;  // bottom, right
          case 4: row = from_bottom, column = x; break;           // bottom, left
          case 5: row = x, column = y; break;                     // left, top
          case 6: row = from_right, column = y; break;            // right, top
          case 7: row = from_right, column = from_bottom; break;  // right, bottom
          case 8: row = x, column = from_bottom; break;           // left, bottom
        }
        for (int c = 0; c < 3; ++c) {
          stored.rgb[static_cast<std::size_t>((row * stored.width + column) * 3 + c)] =
              upright.rgb[static_cast<std::size_t>((y * upright.width + x) * 3 + c)];
        }
      }
    }
    for (const bool big_endian : {false, true}) {
      const auto bytes = encode_jpeg(stored, {.orientation = orientation, .exif_big_endian = big_endian});
      INFO("orientation " << orientation << (big_endian ? " big endian" : ""));
      CHECK(distance(decoded(bytes), upright) <= 12);
      CHECK(distance(decoded(bytes, {.apply_orientation = false}), stored) <= 12);
    }
  }
}

TEST_CASE("JPEG: scaled decoding never goes below the side that is needed") {
  const auto bytes = encode_jpeg(gradient_image(96, 200));
  const auto sides = [&](int least) {
    const Image image = decoded(bytes, {.min_side_px = least});
    return std::pair(image.height, image.width);
  };
  CHECK(sides(0) == std::pair(96, 200));
  CHECK(sides(97) == std::pair(96, 200));
  CHECK(sides(49) == std::pair(96, 200));
  CHECK(sides(48) == std::pair(48, 100));
  CHECK(sides(25) == std::pair(48, 100));
  CHECK(sides(24) == std::pair(24, 50));
  CHECK(sides(12) == std::pair(12, 25));
  CHECK(sides(1) == std::pair(12, 25));
}

TEST_CASE("JPEG: damage is an error that names the picture, never grey pixels") {
  const Image picture = gradient_image(64, 64);
  for (const bool progressive : {false, true}) {
    const auto bytes = encode_jpeg(picture, {.progressive = progressive});
    for (std::size_t size = 3; size < bytes.size(); size += 7) {
      const std::string message = decode_error(std::span(bytes).first(size));
      INFO(size << " of " << bytes.size() << " bytes: " << message);
      REQUIRE(contains(message, "[decode] picture: "));
      REQUIRE((contains(message, "truncated JPEG") || contains(message, "broken JPEG")));
    }
    CHECK(contains(decode_error(std::span(bytes).first(bytes.size() - 1)), "truncated JPEG"));
    CHECK(decode_error(bytes).empty());
  }
  // Bytes after the end are harmless; so are some before it.
  auto longer = encode_jpeg(picture);
  longer.insert(longer.end(), 100, std::byte{0x55});
  CHECK(decode_error(longer).empty());
  auto padded = encode_jpeg(picture);
  padded.insert(padded.end() - 2, 20, std::byte{0});
  CHECK(decode_error(padded).empty());
  CHECK(distance(decoded(padded), picture) <= 8);
}

TEST_CASE("JPEG: any single wrong byte gives a picture or an Error") {
  auto bytes = encode_jpeg(gradient_image(24, 24), {.progressive = true, .orientation = 6});
  for (std::size_t at = 2; at < bytes.size(); ++at) {
    const std::byte original = bytes[at];
    for (const int value : {0x00, 0xFF, 0xD9, 0x7F}) {
      bytes[at] = static_cast<std::byte>(value);
      decode_error(bytes, {.max_pixels = 1'000'000});
    }
    bytes[at] = original;
  }
  CHECK(decode_error(bytes).empty());
}

TEST_CASE("PNG: 1 to 16 bit, palette and alpha as Pillow converts to RGB") {
  const std::string two_greys("\0\x10\xF0", 3);
  CHECK(pixels(decoded(handmade_png(2, 1, 8, 0, two_greys))) == std::vector<int>{16, 16, 16, 240, 240, 240});
  CHECK(pixels(decoded(handmade_png(2, 1, 1, 0, std::string("\0\x40", 2)))) ==
        std::vector<int>{0, 0, 0, 255, 255, 255});
  CHECK(pixels(decoded(handmade_png(1, 1, 16, 2, std::string("\0\x12\xFF\x34\x80\x56\x00", 7)))) ==
        std::vector<int>{0x12, 0x34, 0x56});
  CHECK(pixels(decoded(handmade_png(1, 1, 16, 0, std::string("\0\x12\xFF", 3)))) == std::vector<int>{0x12, 0x12, 0x12});
  // Alpha is dropped, not blended: a wholly transparent pixel keeps its colour.
  CHECK(pixels(decoded(handmade_png(1, 1, 8, 6, std::string("\0\x0A\x14\x1E\0", 5)))) == std::vector<int>{10, 20, 30});
  CHECK(pixels(decoded(handmade_png(1, 1, 8, 4, std::string("\0\x0A\0", 3)))) == std::vector<int>{10, 10, 10});
  const std::string palette = "abcdef";
  CHECK(pixels(decoded(handmade_png(2, 1, 8, 3, std::string("\0\1\0", 3), palette))) ==
        std::vector<int>{'d', 'e', 'f', 'a', 'b', 'c'});
  CHECK(pixels(decoded(handmade_png(2, 1, 8, 3, std::string("\0\1\0", 3), palette, std::string("\x80\0", 2)))) ==
        std::vector<int>{'d', 'e', 'f', 'a', 'b', 'c'});
}

TEST_CASE("PNG: every kind, depth and filter, interlaced or not, at odd sizes") {
  std::uint32_t state = 1;
  const auto random = [&](std::uint32_t below) { return ((state = state * 1664525u + 1013904223u) >> 8) % below; };
  // In which of the seven passes a pixel is stored (PNG, 8.2); all in the first where it is not interlaced.
  constexpr std::string_view kPasses = "1646264677777777565656567777777736463646777777775656565677777777";
  // Rows as a file has them, each pass' with filters of its own (PNG, 9.2).
  const auto rows_of = [&](const std::vector<std::uint32_t>& samples, int height, int width, std::size_t per_pixel,
                           std::size_t depth, bool interlaced) {
    std::string rows;
    const std::size_t distance = std::max<std::size_t>(1, per_pixel * depth / 8);
    for (char pass = '1'; pass <= (interlaced ? '7' : '1'); ++pass) {
      std::string above;
      for (int y = 0; y < height; ++y) {
        std::string row;
        std::size_t bits = 0;
        for (int x = 0; x < width; ++x) {
          if (interlaced && kPasses[static_cast<std::size_t>(y % 8 * 8 + x % 8)] != pass) continue;
          for (std::size_t s = 0; s < per_pixel; ++s) {
            const std::uint32_t value = samples[static_cast<std::size_t>(y * width + x) * per_pixel + s];
            for (std::size_t bit = depth; bit-- > 0; ++bits) {
              if (bits % 8 == 0) row += '\0';
              row.back() = static_cast<char>(row.back() | static_cast<int>(value >> bit & 1) << (7 - bits % 8));
            }
          }
        }
        if (row.empty()) continue;
        above.resize(row.size(), '\0');
        const std::uint32_t filter = random(5);
        rows += static_cast<char>(filter);
        for (std::size_t i = 0; i < row.size(); ++i) {
          const auto at = [&](const std::string& bytes, bool before) {
            return before && i < distance ? 0 : int{static_cast<unsigned char>(bytes[before ? i - distance : i])};
          };
          const int left = at(row, true);
          const int up = at(above, false);
          const int corner = at(above, true);
          const int guess = left + up - corner;
          const auto off = [&](int value) { return std::abs(guess - value); };
          const int paeth = off(left) <= off(up) && off(left) <= off(corner) ? left
                            : off(up) <= off(corner)                         ? up
                                                                             : corner;
          const std::array<int, 5> predicted = {0, left, up, (left + up) / 2, paeth};
          rows += static_cast<char>(at(row, false) - predicted[filter]);
        }
        above = row;
      }
    }
    return rows;
  };
  struct Kind {
    int number;
    std::size_t samples;
    std::vector<std::size_t> depths;
  };
  const std::vector<Kind> kinds = {
      {0, 1, {1, 2, 4, 8, 16}}, {2, 3, {8, 16}}, {3, 1, {1, 2, 4, 8}}, {4, 2, {8, 16}}, {6, 4, {8, 16}}};
  for (const Kind& kind : kinds) {
    for (const std::size_t depth : kind.depths) {
      for (const auto& [height, width] : {std::pair(1, 1), {2, 3}, {5, 4}, {9, 17}}) {
        for (const bool interlaced : {false, true}) {
          CAPTURE(kind.number, depth, height, width, interlaced);
          std::vector<std::uint32_t> samples(static_cast<std::size_t>(height * width) * kind.samples);
          for (std::uint32_t& sample : samples) sample = random(1u << depth);
          // Half of a palette's colours have an alpha; elsewhere the first pixel's colour is transparent.
          std::string palette;
          std::string clear;
          if (kind.number == 3) {
            for (std::uint32_t i = 0; i < 3u << depth; ++i) palette += static_cast<char>(random(256));
            for (std::uint32_t i = 0; i < 1u << (depth - 1); ++i) clear += static_cast<char>(random(256));
          } else if (kind.number <= 2) {
            for (std::size_t s = 0; s < kind.samples; ++s) {
              clear += {static_cast<char>(samples[s] >> 8), static_cast<char>(samples[s] & 255)};
            }
          }
          std::vector<int> rgb;
          std::vector<int> rgba;
          for (std::size_t i = 0; i < samples.size(); i += kind.samples) {
            std::array<int, 4> color{};
            const auto eight_bits = [&](std::size_t s) {
              const std::uint32_t value = samples[i + s];
              return static_cast<int>(depth == 16 ? value / 256 : value * 255 / ((1u << depth) - 1));
            };
            for (std::size_t c = 0; c < 3; ++c) {
              color[c] = kind.number == 3 ? static_cast<unsigned char>(palette[samples[i] * 3 + c])
                                          : eight_bits(kind.samples >= 3 ? c : 0);
            }
            if (kind.number == 3) {
              color[3] = samples[i] < clear.size() ? static_cast<unsigned char>(clear[samples[i]]) : 255;
            } else if (kind.number >= 4) {
              color[3] = eight_bits(kind.samples - 1);
            } else {
              color[3] = std::equal(samples.begin(), samples.begin() + static_cast<std::ptrdiff_t>(kind.samples),
                                    samples.begin() + static_cast<std::ptrdiff_t>(i))
                             ? 0
                             : 255;
            }
            rgb.insert(rgb.end(), color.begin(), color.begin() + 3);
            rgba.insert(rgba.end(), color.begin(), color.end());
          }
          const std::string rows = rows_of(samples, height, width, kind.samples, depth, interlaced);
          const auto png =
              handmade_png(width, height, static_cast<int>(depth), kind.number, rows, palette, clear, interlaced);
          REQUIRE(pixels(decoded(png)) == rgb);
          REQUIRE(pixels_with_alpha(png) == rgba);
          const auto cut = handmade_png(width, height, static_cast<int>(depth), kind.number,
                                        std::string_view(rows).substr(0, rows.size() - 1), palette, clear, interlaced);
          REQUIRE(contains(decode_error(cut), "ot enough image data"));
        }
      }
    }
  }
}

TEST_CASE("PNG: what is not sound is refused with its reason") {
  const auto text_of = [](std::span<const std::byte> bytes) {
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  const auto error = [](const std::string& png) { return decode_error(as_bytes(png)); };
  const std::string row("\0\1\0", 3);
  const std::string png = text_of(handmade_png(2, 1, 8, 3, row, "abcdef", "\x10"));
  REQUIRE(error(png).empty());
  // One wrong byte in each chunk that matters, the last of which is the checksum of zlib's.
  for (const std::string_view type : {"IHDR", "PLTE", "tRNS"}) {
    std::string damaged = png;
    damaged[damaged.find(type) + 4] ^= 1;
    CHECK(contains(error(damaged), fmt::format("{}: CRC error", type)));
  }
  std::string damaged = png;
  damaged[damaged.find("IEND") - 9] ^= 1;
  CHECK(contains(error(damaged), "incorrect data check"));

  // Kinds and depths that do not go together; their rows would be long enough.
  for (const auto& [kind, depth] :
       {std::pair(2, 1), {2, 4}, {3, 16}, {4, 4}, {6, 2}, {1, 8}, {5, 8}, {7, 8}, {0, 3}, {0, 32}}) {
    CAPTURE(kind, depth);
    CHECK(contains(decode_error(handmade_png(1, 1, depth, kind, std::string(33, '\0'), "abc")), "Invalid IHDR data"));
  }
  CHECK(contains(decode_error(handmade_png(2, 1, 8, 3, row)), "Missing PLTE"));
  CHECK(contains(decode_error(handmade_png(2, 1, 8, 3, row, "abcd")), "PLTE: invalid"));
  CHECK(contains(decode_error(handmade_png(2, 1, 8, 3, row, std::string(771, 'a'))), "PLTE: invalid"));
  // Transparency of a size that is none is passed over.
  CHECK(pixels_with_alpha(handmade_png(2, 1, 8, 3, row, "abcdef", std::string(257, 'a'))) ==
        std::vector<int>{'d', 'e', 'f', 255, 'a', 'b', 'c', 255});
  CHECK(pixels_with_alpha(handmade_png(2, 1, 8, 0, row, "", "abc")) == std::vector<int>{1, 1, 1, 255, 0, 0, 0, 255});
  CHECK(contains(decode_error(handmade_png(2, 1, 8, 0, std::string("\5\1\0", 3))), "bad adaptive filter value"));
  // Bytes behind the pixels mean nothing.
  CHECK(decode_error(handmade_png(2, 1, 8, 0, row + std::string(1000, 'x'))).empty());
  const auto with_chunk = [&](const std::string& chunk, std::string_view before) {
    return std::string(png).insert(png.find(before) - 4, chunk);
  };
  CHECK(error(with_chunk(png_chunk("teXt", "hello"), "PLTE")).empty());
  CHECK(contains(error(with_chunk(png_chunk("ABCD", ""), "PLTE")), "unhandled critical chunk"));
  CHECK(contains(error(with_chunk(png_chunk("PLTE", "ghi"), "PLTE")), "PLTE: duplicate"));
  // What comes behind the pixels has no say.
  CHECK(pixels(decoded(as_bytes(with_chunk(png_chunk("PLTE", "ghijkl"), "IEND")))) == pixels(decoded(as_bytes(png))));
  CHECK(contains(error(png.substr(0, png.find("IDAT") - 4) + png.substr(png.find("IEND") - 4)), "IEND: out of place"));

  // Codes of deflate that mean nothing (RFC 1951, 3.2.5): stb shows whatever is in memory for a distance of 30.
  const auto deflated = [](const std::string& stream) {
    const std::string sound =
        "\x89PNG\r\n\x1a\n" + png_chunk("IHDR", std::string("\0\0\0\x0c\0\0\0\1\x08\0\0\0\0", 13));
    return sound + png_chunk("IDAT", "\x78\x9c" + stream) + png_chunk("IEND", "");
  };
  CHECK(contains(error(deflated(std::string("\143\160\104\172\000\000\000\000\000", 9))), "invalid distance code"));
  CHECK(contains(error(deflated(std::string(
                     "\143\160\164\164\164\164\164\164\164\164\164\164\164\034\003\000\000\000\000\000", 20))),
                 "invalid literal/length code"));
}

TEST_CASE("PNG: what is written reads back, cut files are errors") {
  const Image picture = gradient_image(19, 31);
  const auto bytes = encode_png(picture.rgb, 19, 31, 3);
  CHECK(decoded(bytes).rgb == picture.rgb);
  for (std::size_t size = 8; size + 12 < bytes.size(); size += 11) {
    const std::string message = decode_error(std::span(bytes).first(size));
    INFO(size << " of " << bytes.size() << " bytes: " << message);
    REQUIRE(contains(message, "truncated PNG"));
  }
  const TemporaryFolder folder;
  const std::vector<std::uint8_t> rgba = {1, 2, 3, 0, 4, 5, 6, 77, 7, 8, 9, 255};
  write_png(folder.path() / "a.png", rgba, 1, 3, 4);
  CHECK(decode_rgba_file(folder.path() / "a.png").rgba == rgba);
  write_png(folder.path() / "g.png", std::vector<std::uint8_t>{9, 8}, 2, 1, 1);
  Image grey;
  decode_image_file(folder.path() / "g.png", {}, grey);
  CHECK(grey.height == 2);
  CHECK(pixels(grey) == std::vector<int>{9, 9, 9, 8, 8, 8});
  CHECK(contains(error_of([&] { write_png(folder.path() / "no" / "a.png", rgba, 1, 3, 4); }), "cannot write"));
  CHECK(contains(error_of([&] { encode_png(rgba, 2, 3, 4); }), "got 12 bytes"));
}

TEST_CASE("BMP, GIF, TGA and PNM are read by their content") {
  const std::string bmp = bmp_header(1, 2) + std::string("\3\2\1\0\6\5\4\0", 8);  // from the bottom, BGR
  CHECK(pixels(decoded(as_bytes(bmp))) == std::vector<int>{4, 5, 6, 1, 2, 3});
  CHECK(contains(decode_error(as_bytes(bmp.substr(0, 58))), "truncated BMP"));
  const std::string from_top = bmp_header(1, -2) + std::string("\3\2\1\0\6\5\4\0", 8);
  CHECK(pixels(decoded(as_bytes(from_top))) == std::vector<int>{1, 2, 3, 4, 5, 6});
  CHECK(contains(decode_error(as_bytes(bmp_header(20000, -20000) + "abc")), "too large"));

  CHECK(pixels(decoded(as_bytes("P6 2 1 255\nabcdef"))) == std::vector<int>{'a', 'b', 'c', 'd', 'e', 'f'});
  CHECK(pixels(decoded(as_bytes("P5\n# comment\n2 1\n255\nab"))) == std::vector<int>{'a', 'a', 'a', 'b', 'b', 'b'});
  CHECK(!decode_error(as_bytes("P6 2 1 255\nabcde")).empty());

  const std::string gif("GIF89a\2\0\1\0\x80\0\0ABCDEF,\0\0\0\0\2\0\1\0\0\2\2\x44\x0A\0;", 35);
  CHECK(pixels(decoded(as_bytes(gif))) == std::vector<int>{'A', 'B', 'C', 'D', 'E', 'F'});
  CHECK(!decode_error(as_bytes(gif.substr(0, 30))).empty());

  const std::string tga = std::string("\0\0\2\0\0\0\0\0\0\0\0\0\1\0\1\0\x18\x20", 18) + "cba";
  CHECK(pixels(decoded(as_bytes(tga))) == std::vector<int>{'a', 'b', 'c'});
  CHECK(contains(decode_error(as_bytes(tga.substr(0, 20))), "truncated TGA"));
  const std::string wide = std::string("\0\0\2\0\0\0\0\0\0\0\0\0\0\4\1\0\x18\x20", 18) + std::string(3072, 'x');
  CHECK(decode_error(as_bytes(wide)).empty());
  CHECK(contains(decode_error(as_bytes(wide.substr(0, 3000))), "truncated TGA"));
}

TEST_CASE("Hostile files are refused with their name and a reason") {
  const TemporaryFolder folder;
  const auto file_error = [&](const std::filesystem::path& path) {
    Image image;
    const std::string message = error_of([&] { decode_image_file(path, {}, image); });
    CHECK(contains(message, path.string()));
    CHECK(message.find('\n') == std::string::npos);
    return message;
  };
  CHECK(contains(file_error(folder.write("empty.jpg", "")), "empty"));
  CHECK(contains(file_error(folder.write("text.jpg", "Hello, this is text.\n")), "starts with \"Hello, this "));
  CHECK(contains(file_error(folder.write("x.jpg", "RIFF1234WEBPVP8 ")), "WebP"));
  CHECK(contains(file_error(folder.path() / "missing.jpg"), "No such file"));
  CHECK(contains(file_error(folder.path()), "folder"));
  CHECK(contains(decode_error(as_bytes("\xff\xd8\xff")), "truncated JPEG"));
  CHECK(!decode_error(as_bytes("BM")).empty());
  CHECK(!decode_error(as_bytes("P6")).empty());
  CHECK(!decode_error(as_bytes("GIF89a")).empty());
  CHECK(!decode_error(as_bytes("\x89PNG\r\n\x1a\n")).empty());
  CHECK(!decode_error(as_bytes(std::string(64, '\0'))).empty());
}

TEST_CASE("A header that claims a huge picture is refused before memory is taken") {
  auto jpeg = encode_jpeg(gradient_image(8, 8));
  bool patched = false;
  for (std::size_t i = 0; i + 8 < jpeg.size() && !patched; ++i) {
    if (jpeg[i] != std::byte{0xFF} || jpeg[i + 1] != std::byte{0xC0}) continue;
    for (const std::size_t at : {i + 5, i + 7}) {
      jpeg[at] = std::byte{20000 >> 8};
      jpeg[at + 1] = std::byte{20000 & 255};
    }
    patched = true;
  }
  REQUIRE(patched);
  CHECK(contains(decode_error(jpeg), "too large; got 20000×20000 pixels"));
  CHECK(contains(decode_error(handmade_png(20000, 20000, 8, 2, "")), "too large; got 20000×20000 pixels"));
  CHECK(contains(decode_error(handmade_png(2147483647, 2147483647, 8, 2, "")), "too large"));
  CHECK(contains(decode_error(handmade_png(0, 1, 8, 2, "")), "broken PNG"));
  CHECK(contains(decode_error(as_bytes("P6 20000 20000 255\nabc")), "too large"));
  CHECK(
      contains(decode_error(encode_jpeg(gradient_image(10, 11)), {.max_pixels = 109}), "too large; got 11×10 pixels"));
  CHECK(decode_error(encode_jpeg(gradient_image(10, 11)), {.max_pixels = 110}).empty());
}

TEST_CASE("A picture of one pixel, and reuse of a larger one's memory") {
  Image image = gradient_image(50, 50);
  const auto* memory = image.rgb.data();
  decode_image(encode_jpeg(gradient_image(1, 1)), "one", {}, image);
  CHECK((image.height == 1 && image.width == 1 && image.rgb.size() == 3));
  CHECK(image.rgb.data() == memory);
  decode_image(encode_png(image.rgb, 1, 1, 3), "one", {}, image);
  CHECK(image.rgb.data() == memory);
}

TEST_CASE("Threads decode side by side, each with its own errors") {
  const auto jpeg = encode_jpeg(gradient_image(40, 40));
  const auto png = encode_png(gradient_image(40, 40).rgb, 40, 40, 3);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 30; ++i) {
        if (!decode_error(jpeg).empty() || !decode_error(png).empty()) ++wrong;
        if (decode_error(std::span(jpeg).first(300)).find("truncated JPEG") == std::string::npos) ++wrong;
        if (decode_error(std::span(png).first(100)).find("truncated PNG") == std::string::npos) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("golden photograph: both files decode to nearly the same picture") {
  Image png;
  Image jpeg;
  decode_image_file(golden_dir() / "photo.png", {}, png);
  decode_image_file(golden_dir() / "photo.jpg", {}, jpeg);
  REQUIRE(png.rgb.size() == jpeg.rgb.size());
  double sum = 0;
  for (std::size_t i = 0; i < png.rgb.size(); ++i) sum += std::abs(int{png.rgb[i]} - int{jpeg.rgb[i]});
  CHECK(sum / static_cast<double>(png.rgb.size()) <= 6.0);
}

TEST_CASE("a PNG whose data are more or fewer than its header says takes no memory for them") {
  // 640 kB that inflate to 640 MB for one pixel.
  std::vector<std::uint8_t> zeros(1 << 20);
  z_stream stream{};
  REQUIRE(deflateInit(&stream, 9) == Z_OK);
  std::string deflated;
  std::vector<char> block(1 << 16);
  for (int i = 0; i <= 640; ++i) {
    stream.next_in = zeros.data();
    stream.avail_in = static_cast<uInt>(zeros.size());
    do {
      stream.next_out = reinterpret_cast<Bytef*>(block.data());
      stream.avail_out = static_cast<uInt>(block.size());
      REQUIRE(deflate(&stream, i == 640 ? Z_FINISH : Z_NO_FLUSH) >= 0);
      deflated.append(block.data(), block.size() - stream.avail_out);
    } while (stream.avail_out == 0);
  }
  deflateEnd(&stream);
  const std::vector<std::byte> png = handmade_png(1, 1, 8, 0, std::string(2, '\0'));
  const std::string sound(reinterpret_cast<const char*>(png.data()), png.size());
  // With these bytes as its pixels, in chunks of at most this size, and behind another chunk.
  const auto with_pixels = [&](const std::string& bytes, std::size_t chunk_bytes, const std::string& first = "") {
    std::string file = sound.substr(0, 8);
    if (!first.empty()) file += png_chunk(first, "abcd");
    file += sound.substr(8, sound.find("IDAT") - 4 - 8);
    for (std::size_t at = 0; at < bytes.size(); at += chunk_bytes) {
      file += png_chunk("IDAT", bytes.substr(at, chunk_bytes));
    }
    return file + sound.substr(sound.size() - 12);
  };
  // What lies behind the pixel is never inflated: that would take half a second.
  for (const std::size_t chunk_bytes : {deflated.size(), std::size_t{50000}}) {
    CHECK(pixels(decoded(as_bytes(with_pixels(deflated, chunk_bytes)))) == std::vector<int>{0, 0, 0});
  }
  // A hundred million pixels in a hundred bytes.
  CHECK(contains(decode_error(handmade_png(10000, 10000, 16, 6, std::string(100, '\0'))),
                 "fewer pixels than its header says"));
  // Apple's variant, whose size, palette and compressed data lie elsewhere.
  CHECK(contains(decode_error(as_bytes(with_pixels(deflated.substr(2), 50000, "CgBI"))), "Apple's own kind"));
  // A chunk that claims a gigabyte.
  std::string claims = sound;
  claims.replace(sound.find("IDAT") - 4, 4, "\x3f\xff\xff\xff");
  CHECK(contains(decode_error(as_bytes(claims)), "truncated PNG"));
  // As large a file with noise in it is a sound one.
  Image noise;
  noise.resize(600, 600);
  std::uint32_t state = 1;
  for (std::uint8_t& value : noise.rgb)
    value = static_cast<std::uint8_t>((state = state * 1664525u + 1013904223u) >> 24);
  const std::vector<std::byte> large = encode_png(noise.rgb, noise.height, noise.width, 3);
  REQUIRE(large.size() > 600000);
  CHECK(decoded(large).rgb == noise.rgb);
  CHECK(contains(decode_error(std::span(large).first(large.size() / 2)), "PNG"));
}

TEST_CASE("PNM: grey and colour of up to 8 bits; what makes no sense is refused") {
  CHECK(contains(decode_error(as_bytes("P6\n2 1\n65535\nabcdefghijkl")), "16 bits a channel"));
  CHECK(contains(decode_error(as_bytes("P5 2 1 256 abcd")), "16 bits a channel"));
  CHECK(contains(decode_error(as_bytes("P5 255\nabcdef")), "makes no sense"));
  CHECK(contains(decode_error(as_bytes("P5 33333333333333333333 1 255\na")), "makes no sense"));
  CHECK(contains(decode_error(as_bytes("P6 2000000000 2000000000 255\nabc")), "too large; got 2000000000×2000000000"));
  CHECK(contains(decode_error(as_bytes("P5 0 1 255\na")), "makes no sense"));
  CHECK(contains(decode_error(as_bytes("P5 1 1 0\na")), "makes no sense"));
  CHECK(contains(decode_error(as_bytes("P5 1 1 255")), "makes no sense"));
  CHECK(contains(decode_error(as_bytes("P6 2 1 255\nabcde")), "truncated PNM"));
  CHECK(pixels(decoded(as_bytes("P6#x\n2 # y\n1\n255\nabcdef"))) == std::vector<int>{97, 98, 99, 100, 101, 102});
  CHECK(pixels(decoded(as_bytes("P5 3 1 15\n\x01\x0f\x7f"))) ==
        std::vector<int>{17, 17, 17, 255, 255, 255, 255, 255, 255});
  // 10, 30 and 50 of 100 lie halfway between two levels (25.5, 76.5, 127.5), and 33 is 84.15.
  CHECK(pixels(decoded(as_bytes("P6 2 1 100\n\x0a\x1e\x32\x21\x64\xc8"))) ==
        std::vector<int>{26, 76, 128, 84, 255, 255});
  CHECK(pixels(decoded(as_bytes("P5 2 1 255\nab"))) == std::vector<int>{97, 97, 97, 98, 98, 98});
}

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

TEST_CASE("a program that turns stb_image's pictures over does not turn ours") {
  const Image picture = gradient_image(3, 4);
  stbi_flip_vertically_on_write(1);
  const auto png = encode_png(picture.rgb, 3, 4, 3);
  stbi_flip_vertically_on_write(0);
  CHECK(decoded(png).rgb == picture.rgb);
}

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
