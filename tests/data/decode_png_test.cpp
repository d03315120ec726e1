#include "data/decode.h"

#include "data/png.h"
#include "tests/support/catch.h"
#include "tests/support/decoded.h"
#include "tests/support/pictures.h"

#include <array>

#include <stb_image_write.h>
#include <zlib.h>

using namespace dino;
using namespace dino::test;

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

TEST_CASE("a program that turns stb_image's pictures over does not turn ours") {
  const Image picture = gradient_image(3, 4);
  stbi_flip_vertically_on_write(1);
  const auto png = encode_png(picture.rgb, 3, 4, 3);
  stbi_flip_vertically_on_write(0);
  CHECK(decoded(png).rgb == picture.rgb);
}
