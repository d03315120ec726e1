// Finds out what a file is and hands it to the reader of its kind.
#include "data/decode.h"

#include "data/decode_bmp.h"
#include "data/decode_gif.h"
#include "data/decode_jpeg.h"
#include "data/decode_png.h"
#include "data/decode_pnm.h"
#include "data/decode_tga.h"
#include "kernels/common/error.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

namespace dino {
namespace {

constexpr std::int64_t kMaxFileBytes = std::int64_t{1} << 30;

int byte_at(std::span<const std::byte> bytes, std::size_t at) {
  return at < bytes.size() ? std::to_integer<int>(bytes[at]) : 0;
}

int u16_at(std::span<const std::byte> bytes, std::size_t at) {
  return byte_at(bytes, at) | byte_at(bytes, at + 1) << 8;
}

bool starts_with(std::span<const std::byte> bytes, std::string_view magic, std::size_t at = 0) {
  return bytes.size() >= at + magic.size() && std::memcmp(bytes.data() + at, magic.data(), magic.size()) == 0;
}

/// What a file that we cannot read probably is, for the message.
std::string describe_content(std::span<const std::byte> bytes) {
  if (starts_with(bytes, "RIFF") && starts_with(bytes, "WEBP", 8)) return "it is WebP";
  if (starts_with(bytes, std::string_view("II*\0", 4)) || starts_with(bytes, std::string_view("MM\0*", 4)))
    return "it is TIFF";
  if (starts_with(bytes, "ftyp", 4)) return "it is HEIF, AVIF or a video";
  if (starts_with(bytes, "PK\3\4")) return "it is a zip archive";
  if (starts_with(bytes, "\x1f\x8b")) return "it is compressed with gzip";
  if (starts_with(bytes, "%PDF")) return "it is PDF";
  std::string start;
  for (std::size_t i = 0; i < std::min<std::size_t>(bytes.size(), 12); ++i) {
    const int value = byte_at(bytes, i);
    if (value >= 0x20 && value < 0x7F && value != '"' && value != '\\') {
      start += static_cast<char>(value);
    } else {
      start += fmt::format("\\x{:02x}", value);
    }
  }
  return fmt::format("it starts with \"{}\"", start);
}

ImageFormat require_known_format(std::span<const std::byte> bytes, std::string_view name) {
  require(!bytes.empty(), "decode", "{}: the file is empty; expected a picture", name);
  const ImageFormat format = detect_image_format(bytes);
  if (format == ImageFormat::unknown) {
    fail("decode", "{}: not a picture that can be read: {}; expected JPEG, PNG, GIF, BMP, TGA or PNM", name,
         describe_content(bytes));
  }
  return format;
}

/// Anything but JPEG, with `channels` (3 or 4) bytes a pixel.
void decode_pixels(std::span<const std::byte> bytes, std::string_view name, ImageFormat format,
                   const DecodeOptions& options, int channels, int& height, int& width,
                   std::vector<std::uint8_t>& pixels) {
  const auto decode = format == ImageFormat::png   ? decode_png
                      : format == ImageFormat::gif ? decode_gif
                      : format == ImageFormat::bmp ? decode_bmp
                      : format == ImageFormat::tga ? decode_tga
                                                   : decode_pnm;
  decode(bytes, name, options, channels, height, width, pixels);
}

}  // namespace

ImageFormat detect_image_format(std::span<const std::byte> bytes) {
  if (starts_with(bytes, "\xff\xd8\xff")) return ImageFormat::jpeg;
  if (starts_with(bytes, "\x89PNG\r\n\x1a\n")) return ImageFormat::png;
  if (starts_with(bytes, "GIF87a") || starts_with(bytes, "GIF89a")) return ImageFormat::gif;
  // "BM" alone begins many texts; the two reserved fields of the header are always 0.
  if (starts_with(bytes, "BM") && bytes.size() > 26 && u16_at(bytes, 6) == 0 && u16_at(bytes, 8) == 0)
    return ImageFormat::bmp;
  constexpr std::string_view kPnmSeparators = " \t\r\n#";
  if ((starts_with(bytes, "P5") || starts_with(bytes, "P6")) && bytes.size() > 2 &&
      kPnmSeparators.find(static_cast<char>(bytes[2])) != std::string_view::npos) {
    return ImageFormat::pnm;
  }
  return looks_like_tga(bytes) ? ImageFormat::tga : ImageFormat::unknown;
}

void decode_image(std::span<const std::byte> bytes, std::string_view name, const DecodeOptions& options, Image& image) {
  const ImageFormat format = require_known_format(bytes, name);
  if (format == ImageFormat::jpeg) return decode_jpeg(bytes, name, options, image);
  decode_pixels(bytes, name, format, options, 3, image.height, image.width, image.rgb);
}

void decode_image_file(const std::filesystem::path& path, const DecodeOptions& options, Image& image) {
  // Loader threads read file after file.
  thread_local std::vector<std::byte> bytes;
  read_picture_file(path, bytes);
  decode_image(bytes, path.string(), options, image);
}

RgbaImage decode_rgba_file(const std::filesystem::path& path, const DecodeOptions& options) {
  std::vector<std::byte> bytes;
  read_picture_file(path, bytes);
  const std::string name = path.string();
  const ImageFormat format = require_known_format(bytes, name);
  RgbaImage result;
  if (format == ImageFormat::jpeg) {
    Image image;
    decode_jpeg(bytes, name, options, image);
    result.height = image.height;
    result.width = image.width;
    result.rgba.reserve(image.rgb.size() / 3 * 4);
    for (std::size_t i = 0; i < image.rgb.size(); i += 3) {
      result.rgba.insert(result.rgba.end(), {image.rgb[i], image.rgb[i + 1], image.rgb[i + 2], 255});
    }
    return result;
  }
  decode_pixels(bytes, name, format, options, 4, result.height, result.width, result.rgba);
  return result;
}

void read_picture_file(const std::filesystem::path& path, std::vector<std::byte>& bytes) {
  struct Descriptor {
    int value;
    ~Descriptor() {
      if (value >= 0) close(value);
    }
  };
  // Not blocking: opening a pipe must not hang.
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  struct stat status {};
  const bool opened = file.value >= 0 && fstat(file.value, &status) == 0;
  require(opened, "decode", "cannot read {}: {}", path.string(), std::strerror(errno));
  require(S_ISREG(status.st_mode), "decode", "{}: {}; expected a picture file", path.string(),
          S_ISDIR(status.st_mode) ? "it is a folder" : "it is not a regular file");
  require(status.st_size <= kMaxFileBytes, "decode", "{}: file too large; got {} bytes, expected at most {}",
          path.string(), status.st_size, kMaxFileBytes);
  bytes.resize(static_cast<std::size_t>(status.st_size));
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t count = read(file.value, bytes.data() + filled, bytes.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    require(count >= 0, "decode", "cannot read {}: {}", path.string(), std::strerror(errno));
    if (count == 0) break;  // shortened meanwhile: what is there decides
    filled += static_cast<std::size_t>(count);
  }
  bytes.resize(filled);
}

}  // namespace dino
