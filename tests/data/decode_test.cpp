#include "data/decode.h"

#include "data/png.h"
#include "tests/support/catch.h"
#include "tests/support/decoded.h"
#include "tests/support/paths.h"
#include "tests/support/pictures.h"

#include <atomic>
#include <thread>

using namespace dino;
using namespace dino::test;

namespace {

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
