// Finds out what a file is and hands it to libjpeg-turbo, stb_image or our own reader of PNM.
#include "data/decode.h"

#include "data/decode_jpeg.h"
#include "data/decode_pnm.h"
#include "data/large_picture.h"
#include "data/palette.h"
#include "kernels/common/error.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include <stb_image.h>
#include <zlib.h>

namespace dino {
namespace {

constexpr std::int64_t kMaxFileBytes = std::int64_t{1} << 30;
constexpr std::size_t kPngSignatureBytes = 8;
constexpr std::size_t kPngChunkFrameBytes = 12;  // length, type, checksum

int byte_at(std::span<const std::byte> bytes, std::size_t at) {
  return at < bytes.size() ? std::to_integer<int>(bytes[at]) : 0;
}

int u16_at(std::span<const std::byte> bytes, std::size_t at) {
  return byte_at(bytes, at) | byte_at(bytes, at + 1) << 8;
}

std::int64_t u32_big_endian_at(std::span<const std::byte> bytes, std::size_t at) {
  std::int64_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) value = value << 8 | byte_at(bytes, at + i);
  return value;
}

bool starts_with(std::span<const std::byte> bytes, std::string_view magic, std::size_t at = 0) {
  return bytes.size() >= at + magic.size() && std::memcmp(bytes.data() + at, magic.data(), magic.size()) == 0;
}

/// TGA has no magic number, so every field of its header must make sense and the pixels must be able to fit the file.
bool looks_like_tga(std::span<const std::byte> bytes) {
  constexpr std::size_t kHeaderBytes = 18;
  if (bytes.size() <= kHeaderBytes) return false;
  const int has_palette = byte_at(bytes, 1);
  const int kind = byte_at(bytes, 2);
  const int kind_without_rle = kind & ~8;
  const int width = u16_at(bytes, 12);
  const int height = u16_at(bytes, 14);
  const int bits = byte_at(bytes, 16);
  if (has_palette > 1 || kind > 11 || kind_without_rle < 1 || kind_without_rle > 3) return false;
  if ((kind_without_rle == 1) != (has_palette == 1) || width == 0 || height == 0) return false;
  if (bits != 8 && bits != 15 && bits != 16 && bits != 24 && bits != 32) return false;
  const std::int64_t pixels = std::int64_t{width} * height;
  const std::int64_t pixel_bytes = (bits + 7) / 8;
  constexpr int kLongestRun = 128;
  const std::int64_t least =
      (kind & 8) != 0 ? (pixels + kLongestRun - 1) / kLongestRun * (1 + pixel_bytes) : pixels * pixel_bytes;
  // A quarter of the pixels is enough to tell a shortened TGA from noise.
  return static_cast<std::int64_t>(bytes.size()) - static_cast<std::int64_t>(kHeaderBytes) >= least / 4;
}

std::string_view format_name(ImageFormat format) {
  switch (format) {
    case ImageFormat::jpeg: return "JPEG";
    case ImageFormat::png: return "PNG";
    case ImageFormat::gif: return "GIF";
    case ImageFormat::bmp: return "BMP";
    case ImageFormat::tga: return "TGA";
    case ImageFormat::pnm: return "PNM";
    case ImageFormat::unknown: break;
  }
  return "picture";
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

/// Feeds stb_image and notices when it asks for more than there is: for some formats it would invent the rest.
struct Reader {
  std::span<const std::byte> bytes;
  std::size_t at = 0;
  bool overrun = false;
  const char* buffer = nullptr;  // stb's own, which it fills with whatever is left

  static int read(void* user, char* data, int size) {
    auto& reader = *static_cast<Reader*>(user);
    const std::size_t count = std::min(static_cast<std::size_t>(size), reader.bytes.size() - reader.at);
    if (reader.buffer == nullptr) reader.buffer = data;
    if (count == 0 || (count < static_cast<std::size_t>(size) && data != reader.buffer)) reader.overrun = true;
    if (count != 0) std::memcpy(data, reader.bytes.data() + reader.at, count);
    reader.at += count;
    return static_cast<int>(count);
  }
  static void skip(void* user, int count) {
    auto& reader = *static_cast<Reader*>(user);
    if (count < 0) {
      reader.at -= std::min(reader.at, static_cast<std::size_t>(-static_cast<std::int64_t>(count)));
      return;
    }
    if (static_cast<std::size_t>(count) > reader.bytes.size() - reader.at) reader.overrun = true;
    reader.at = std::min(reader.bytes.size(), reader.at + static_cast<std::size_t>(count));
  }
  static int end(void* user) {
    const auto& reader = *static_cast<Reader*>(user);
    return reader.at >= reader.bytes.size() ? 1 : 0;
  }
};

constexpr stbi_io_callbacks kCallbacks{&Reader::read, &Reader::skip, &Reader::end};

struct StbFree {
  void operator()(stbi_uc* pixels) const { stbi_image_free(pixels); }
};

struct StbPixels {
  int height = 0;
  int width = 0;
  std::unique_ptr<stbi_uc, StbFree> pixels;
};

[[noreturn]] void fail_broken(std::string_view name, ImageFormat format, bool overrun, std::string_view reason) {
  require(!overrun, "decode", "{}: truncated {}: the file ends inside the picture; copy it again", name,
          format_name(format));
  fail("decode", "{}: broken {}: {}", name, format_name(format), reason);
}

void require_size(std::string_view name, std::int64_t height, std::int64_t width, std::int64_t max_pixels) {
  require(height * width <= max_pixels, "decode", "{}: picture too large; got {}×{} pixels, expected at most {} in all",
          name, width, height, max_pixels);
}

/// stb takes the memory that a chunk claims before it looks for the chunk's end.
void require_whole_png(std::span<const std::byte> bytes, std::string_view name) {
  for (std::size_t at = kPngSignatureBytes; !starts_with(bytes, "IEND", at + 4);) {
    if (bytes.size() < at + kPngChunkFrameBytes) fail_broken(name, ImageFormat::png, true, "");
    const auto length = static_cast<std::size_t>(u32_big_endian_at(bytes, at));
    if (length > bytes.size() - at - kPngChunkFrameBytes) fail_broken(name, ImageFormat::png, true, "");
    require(!starts_with(bytes, "CgBI", at + 4), "decode",
            "{}: a PNG of Apple's own kind (CgBI) cannot be read; try one that other programs can show", name);
    at += kPngChunkFrameBytes + length;
  }
}

/// Inflates the pixels of a PNG without keeping them, and refuses more than `limit_bytes`: stb would take them all.
void require_png_bytes(std::span<const std::byte> bytes, std::string_view name, std::int64_t limit_bytes) {
  z_stream stream{};
  require(inflateInit(&stream) == Z_OK, "decode", "{}: no memory to inflate it", name);
  const std::unique_ptr<z_stream, decltype(&inflateEnd)> end(&stream, &inflateEnd);
  std::vector<std::byte> inflated(std::size_t{64} << 10);
  std::int64_t count = 0;
  int status = Z_OK;
  for (std::size_t at = kPngSignatureBytes; status == Z_OK && bytes.size() >= at + kPngChunkFrameBytes;) {
    const auto length = static_cast<std::size_t>(u32_big_endian_at(bytes, at));
    const std::span<const std::byte> content = bytes.subspan(at + 8).first(std::min(length, bytes.size() - at - 8));
    if (starts_with(bytes, "IDAT", at + 4)) {
      stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(content.data()));  // not written to
      stream.avail_in = static_cast<uInt>(content.size());
      do {
        stream.next_out = reinterpret_cast<Bytef*>(inflated.data());
        stream.avail_out = static_cast<uInt>(inflated.size());
        status = inflate(&stream, Z_NO_FLUSH);
        count += static_cast<std::int64_t>(inflated.size() - stream.avail_out);
        require(count <= limit_bytes, "decode", "{}: broken PNG: it holds more than its {} bytes of pixels", name,
                limit_bytes);
      } while (status == Z_OK && (stream.avail_in != 0 || stream.avail_out == 0));
      if (status == Z_BUF_ERROR) status = Z_OK;  // the next chunk goes on
    }
    at += kPngChunkFrameBytes + length;
  }
  // stb reads on where zlib gives up, except for what is wrong about the checksum, which comes last.
  require(status == Z_OK || status == Z_STREAM_END ||
              (stream.msg != nullptr && std::string_view(stream.msg) == "incorrect data check"),
          "decode", "{}: broken PNG: {}", name, stream.msg != nullptr ? stream.msg : "its pixels cannot be inflated");
}

/// Pixels with `channels` (3 or 4) bytes each.
StbPixels decode_with_stb(std::span<const std::byte> bytes, std::string_view name, ImageFormat format,
                          const DecodeOptions& options, int channels) {
  StbPixels result;
  int stored_channels = 0;
  constexpr std::size_t kPngSizes = 16;
  if (format == ImageFormat::png) require_whole_png(bytes, name);
  if (format == ImageFormat::png && bytes.size() >= kPngSizes + 8) {
    // stb gives no reason for the largest ones. A PNG's sides have at most 31 bits.
    require_size(name, u32_big_endian_at(bytes, kPngSizes + 4) & INT32_MAX,
                 u32_big_endian_at(bytes, kPngSizes) & INT32_MAX, options.max_pixels);
  }
  const std::vector<std::byte> whole = with_whole_palette(bytes, name, format);
  if (!whole.empty()) bytes = whole;
  Reader header{bytes};
  if (stbi_info_from_callbacks(&kCallbacks, &header, &result.width, &result.height, &stored_channels) == 0) {
    fail_broken(name, format, header.overrun, "its header makes no sense");
  }
  if (result.height == 0 || result.width <= 0) fail_broken(name, format, false, "it has no pixels");
  // The height of a BMP stored from the top is negative.
  require_size(name, std::abs(std::int64_t{result.height}), result.width, options.max_pixels);
  // Whatever the file is, deflate makes at most this of it.
  constexpr std::int64_t kBestRatio = 1032;
  constexpr std::int64_t kHarmlessBytes = std::int64_t{512} << 20;
  if (format == ImageFormat::png && static_cast<std::int64_t>(bytes.size()) * kBestRatio > kHarmlessBytes) {
    // At most 4 channels of 16 bits, and a byte for each row, of which interlacing makes seven pictures' worth.
    const std::int64_t row_bytes = std::int64_t{result.width} * 8 + 1;
    require_png_bytes(bytes, name, (row_bytes + 16) * (result.height + 16));
  }
  const auto large = lock_if_large(std::abs(std::int64_t{result.height}) * result.width);
  Reader reader{bytes};
  result.pixels.reset(
      stbi_load_from_callbacks(&kCallbacks, &reader, &result.width, &result.height, &stored_channels, channels));
  if (result.pixels == nullptr || reader.overrun) {
    const char* reason = stbi_failure_reason();
    fail_broken(name, format, reader.overrun, reason != nullptr ? reason : "unknown reason");
  }
  return result;
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
  if (format == ImageFormat::pnm) return decode_pnm(bytes, name, options, 3, image.height, image.width, image.rgb);
  const StbPixels decoded = decode_with_stb(bytes, name, format, options, 3);
  image.resize(decoded.height, decoded.width);
  std::memcpy(image.rgb.data(), decoded.pixels.get(), image.rgb.size());
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
  if (format == ImageFormat::pnm) {
    decode_pnm(bytes, name, options, 4, result.height, result.width, result.rgba);
    return result;
  }
  const StbPixels decoded = decode_with_stb(bytes, name, format, options, 4);
  result.height = decoded.height;
  result.width = decoded.width;
  const std::size_t size = static_cast<std::size_t>(result.height) * static_cast<std::size_t>(result.width) * 4;
  result.rgba.assign(decoded.pixels.get(), decoded.pixels.get() + size);
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
