// PNG through libpng, in the manner of decode_jpeg.cpp: an error jumps back to the frame that called the library.
#include "data/decode_png.h"

#include "data/large_picture.h"
#include "data/picture_errors.h"
#include "data/verify_checksums.h"

#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <string>

#include <png.h>

namespace dino {
namespace {

class PngDecoder {
 public:
  PngDecoder(std::span<const std::byte> bytes, std::string_view name) : name_(name), rest_(bytes) {
    png_ = png_create_read_struct(
        PNG_LIBPNG_VER_STRING, this, [](png_structp png, png_const_charp message) { self(png)->stop(message); },
        [](png_structp png, png_const_charp message) { self(png)->warn(message); });
    if (png_ != nullptr) info_ = png_create_info_struct(png_);
    if (info_ == nullptr) {
      png_destroy_read_struct(&png_, nullptr, nullptr);
      fail("decode", "{}: no memory to read a PNG", name);
    }
  }
  ~PngDecoder() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngDecoder(const PngDecoder&) = delete;
  PngDecoder& operator=(const PngDecoder&) = delete;

  void read_header() {
    if (setjmp(escape_) != 0) fail_with_message();
    png_set_read_fn(png_, this, [](png_structp png, png_bytep to, std::size_t size) { self(png)->read(to, size); });
    // The caller has limits of its own.
    png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    // Of the chunks that can be done without only transparency is wanted: no gamma, no profiles, no texts.
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    constexpr int kOnWrongChecksum = kVerifyChecksums ? PNG_CRC_ERROR_QUIT : PNG_CRC_QUIET_USE;
    png_set_crc_action(png_, kOnWrongChecksum, kOnWrongChecksum);
    if (!kVerifyChecksums) png_set_option(png_, PNG_IGNORE_ADLER32, PNG_OPTION_ON);
    png_read_info(png_, info_);
  }

  std::int64_t height() const { return png_get_image_height(png_, info_); }
  std::int64_t width() const { return png_get_image_width(png_, info_); }
  std::int64_t row_bytes() const { return static_cast<std::int64_t>(png_get_rowbytes(png_, info_)); }

  /// All rows, of `channels` bytes a pixel, one behind the other.
  void read_pixels(std::uint8_t* pixels, int channels) {
    if (setjmp(escape_) != 0) fail_with_message();
    png_set_palette_to_rgb(png_);
    png_set_expand_gray_1_2_4_to_8(png_);
    png_set_gray_to_rgb(png_);
    png_set_strip_16(png_);
    if (channels == 4) {
      png_set_tRNS_to_alpha(png_);
      png_set_add_alpha(png_, 255, PNG_FILLER_AFTER);
    } else {
      png_set_strip_alpha(png_);
    }
    const int passes = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    const std::size_t stride = png_get_rowbytes(png_, info_);
    for (int pass = 0; pass < passes; ++pass) {
      for (std::size_t y = 0; y < png_get_image_height(png_, info_); ++y) {
        png_read_row(png_, pixels + y * stride, nullptr);
      }
    }
    // A missing end is noticed.
    png_read_end(png_, nullptr);
  }

 private:
  static PngDecoder* self(png_structp png) { return static_cast<PngDecoder*>(png_get_error_ptr(png)); }

  void read(png_bytep to, std::size_t size) {
    if (size > rest_.size()) {
      truncated_ = true;
      std::longjmp(escape_, 1);
    }
    std::memcpy(to, rest_.data(), size);
    rest_ = rest_.subspan(size);
  }

  [[noreturn]] void stop(png_const_charp message) {
    std::snprintf(message_, sizeof(message_), "%s", message);
    std::longjmp(escape_, 1);
  }

  /// Oddities, as of bytes behind the pixels - but for their checksum, which is found to be wrong when they are read.
  void warn(png_const_charp message) {
    if (std::strstr(message, "incorrect data check") != nullptr) stop(message);
  }

  [[noreturn]] void fail_with_message() {
    if (truncated_) fail_truncated(name_, "PNG");
    fail_broken(name_, "PNG", message_);
  }

  std::string name_;
  std::span<const std::byte> rest_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  std::jmp_buf escape_{};
  char message_[256]{};
  bool truncated_ = false;
};

}  // namespace

void decode_png(std::span<const std::byte> bytes, std::string_view name, const DecodeOptions& options, int channels,
                int& height, int& width, std::vector<std::uint8_t>& pixels) {
  constexpr std::size_t kFirstChunkType = 12;
  require(bytes.size() < kFirstChunkType + 4 || std::memcmp(bytes.data() + kFirstChunkType, "CgBI", 4) != 0, "decode",
          "{}: a PNG of Apple's own kind (CgBI) cannot be read; try one that other programs can show", name);
  PngDecoder decoder(bytes, name);
  decoder.read_header();
  require_size(name, decoder.height(), decoder.width(), options.max_pixels);
  // Deflate makes at most this of a byte; a file that claims more shall not take the memory for it.
  constexpr std::int64_t kBestRatio = 1032;
  if (decoder.height() * decoder.row_bytes() > static_cast<std::int64_t>(bytes.size()) * kBestRatio) {
    fail_broken(name, "PNG", "it holds fewer pixels than its header says");
  }
  const auto large = lock_if_large(decoder.height() * decoder.width());
  height = static_cast<int>(decoder.height());
  width = static_cast<int>(decoder.width());
  pixels.resize(static_cast<std::size_t>(height) * static_cast<std::size_t>(width) *
                static_cast<std::size_t>(channels));
  decoder.read_pixels(pixels.data(), channels);
}

}  // namespace dino
