#include "data/decode.h"

#include "data/png.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"
#include "tests/support/pictures.h"
#include "tests/support/temporary_folder.h"

#include <atomic>
#include <cstdlib>
#include <thread>

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

TEST_CASE("a PNG whose pixels are more than its header says is refused before they take memory") {
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
    const auto chunk = [](const std::string& type, const std::string& content) {
      std::string length(4, '\0');
      for (std::size_t i = 0; i < 4; ++i) length[i] = static_cast<char>(content.size() >> (8 * (3 - i)));
      return length + type + content + std::string(4, '\0');  // nobody looks at the checksum
    };
    std::string file = sound.substr(0, 8);
    if (!first.empty()) file += chunk(first, "abcd");
    file += sound.substr(8, sound.find("IDAT") - 4 - 8);
    for (std::size_t at = 0; at < bytes.size(); at += chunk_bytes) file += chunk("IDAT", bytes.substr(at, chunk_bytes));
    return file + sound.substr(sound.size() - 12);
  };
  CHECK(contains(decode_error(as_bytes(with_pixels(deflated, deflated.size()))), "holds more than its"));
  CHECK(contains(decode_error(as_bytes(with_pixels(deflated, 50000))), "holds more than its"));
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
