#include "tests/support/pictures.h"

#include <cstdio>
#include <cstdlib>
#include <string>

#include <jpeglib.h>

namespace dino::test {

Image gradient_image(int height, int width) {
  Image image;
  image.resize(height, width);
  std::uint8_t* out = image.rgb.data();
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      *out++ = static_cast<std::uint8_t>(30 + 200 * x / width);
      *out++ = static_cast<std::uint8_t>(20 + 190 * y / height);
      *out++ = static_cast<std::uint8_t>(40 + 80 * x / width + 100 * y / height);
    }
  }
  return image;
}

std::vector<std::byte> encode_jpeg(const Image& image, const JpegOptions& options) {
  jpeg_compress_struct info{};
  jpeg_error_mgr errors{};
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* data = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &data, &size);
  info.image_width = static_cast<JDIMENSION>(image.width);
  info.image_height = static_cast<JDIMENSION>(image.height);
  info.input_components = options.components;
  info.in_color_space = options.components == 1 ? JCS_GRAYSCALE : options.components == 4 ? JCS_CMYK : JCS_RGB;
  jpeg_set_defaults(&info);
  if (options.components == 4) jpeg_set_colorspace(&info, options.ycck ? JCS_YCCK : JCS_CMYK);
  jpeg_set_quality(&info, options.quality, TRUE);
  if (options.progressive) jpeg_simple_progression(&info);
  jpeg_start_compress(&info, TRUE);
  if (options.orientation != 0) {
    const auto value = static_cast<char>(options.orientation);
    std::string exif("Exif\0\0", 6);
    if (options.exif_big_endian) {
      exif += std::string("MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0", 19) + value + std::string(6, '\0');
    } else {
      exif += std::string("II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0", 18) + value + std::string(7, '\0');
    }
    jpeg_write_marker(&info, JPEG_APP0 + 1, reinterpret_cast<const JOCTET*>(exif.data()),
                      static_cast<unsigned>(exif.size()));
  }
  std::vector<std::uint8_t> row;
  for (int y = 0; y < image.height; ++y) {
    row.clear();
    for (int x = 0; x < image.width; ++x) {
      const std::uint8_t* pixel =
          image.rgb.data() +
          (static_cast<std::size_t>(y) * static_cast<std::size_t>(image.width) + static_cast<std::size_t>(x)) * 3;
      row.insert(row.end(), pixel, pixel + (options.components == 1 ? 1 : 3));
      // Inverted: 255 is no ink, so RGB with no black is RGB itself.
      if (options.components == 4) row.push_back(255);
    }
    JSAMPROW pointer = row.data();
    jpeg_write_scanlines(&info, &pointer, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  const auto* begin = reinterpret_cast<const std::byte*>(data);
  std::vector<std::byte> bytes(begin, begin + size);
  std::free(data);
  return bytes;
}

namespace {

std::string big_endian(std::uint32_t value) {
  std::string text;
  for (int shift = 24; shift >= 0; shift -= 8) text += static_cast<char>(value >> shift & 255);
  return text;
}

}  // namespace

std::string png_chunk(std::string_view type, std::string_view content) {
  const std::string body = std::string(type) + std::string(content);
  std::uint32_t crc = 0xFFFFFFFF;
  for (const char c : body) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xEDB88320u : 0u);
  }
  return big_endian(static_cast<std::uint32_t>(content.size())) + body + big_endian(~crc);
}

std::vector<std::byte> handmade_png(int width, int height, int bit_depth, int color_type, std::string_view rows,
                                    std::string_view palette, std::string_view transparency, bool interlaced) {
  std::string header = big_endian(static_cast<std::uint32_t>(width)) + big_endian(static_cast<std::uint32_t>(height));
  header += {static_cast<char>(bit_depth), static_cast<char>(color_type), 0, 0, static_cast<char>(interlaced)};
  // zlib with one stored block.
  const auto length = static_cast<unsigned>(rows.size());
  std::string stream("\x78\x01\x01", 3);
  for (const unsigned value : {length, ~length})
    stream += {static_cast<char>(value & 255), static_cast<char>(value >> 8 & 255)};
  stream += rows;
  std::uint32_t a = 1;
  std::uint32_t b = 0;
  for (const char c : rows) {
    a = (a + static_cast<unsigned char>(c)) % 65521;
    b = (b + a) % 65521;
  }
  stream += big_endian(b << 16 | a);
  std::string file = "\x89PNG\r\n\x1a\n" + png_chunk("IHDR", header);
  if (!palette.empty()) file += png_chunk("PLTE", palette);
  if (!transparency.empty()) file += png_chunk("tRNS", transparency);
  file += png_chunk("IDAT", stream) + png_chunk("IEND", "");
  const std::span<const std::byte> bytes = as_bytes(file);
  return {bytes.begin(), bytes.end()};
}

}  // namespace dino::test
