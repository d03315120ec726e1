// JPEG through libjpeg-turbo. The library reports errors by a callback that must not return; ours jumps back to the
// frame that called the library (setjmp), which holds nothing with a destructor. Messages are kept as text and thrown
// as Error from there.
#include "data/decode_jpeg.h"

#include "data/large_picture.h"
#include "data/picture_errors.h"

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <string>

#include <jpeglib.h>
// After jpeglib.h, whose types it uses.
#include <jerror.h>

namespace dino {
namespace {

/// A progressive file may repeat scans without end, each of some bytes and as long in decoding as the picture; sound
/// ones have about ten. Small pictures may have more than large ones.
constexpr int kMaxScans = 500;
constexpr std::int64_t kMaxScannedPixels = std::int64_t{1} << 32;

class JpegDecoder {
 public:
  JpegDecoder(std::span<const std::byte> bytes, std::string_view name) : name_(name) {
    info_.err = jpeg_std_error(&errors_);
    errors_.error_exit = [](j_common_ptr info) { self(info)->stop(info); };
    errors_.emit_message = [](j_common_ptr info, int level) { self(info)->warn(info, level); };
    errors_.output_message = [](j_common_ptr) {};
    info_.client_data = this;
    source_.next_input_byte = reinterpret_cast<const JOCTET*>(bytes.data());
    source_.bytes_in_buffer = bytes.size();
    source_.init_source = [](j_decompress_ptr) {};
    source_.term_source = [](j_decompress_ptr) {};
    source_.resync_to_restart = jpeg_resync_to_restart;
    source_.fill_input_buffer = [](j_decompress_ptr info) -> boolean {
      self(info)->truncated_ = true;
      self(info)->jump();
    };
    source_.skip_input_data = [](j_decompress_ptr info, long count) {
      if (count <= 0) return;
      if (static_cast<unsigned long>(count) > info->src->bytes_in_buffer) info->src->fill_input_buffer(info);
      info->src->next_input_byte += count;
      info->src->bytes_in_buffer -= static_cast<std::size_t>(count);
    };
    progress_.progress_monitor = [](j_common_ptr info) {
      JpegDecoder* decoder = self(info);
      const std::int64_t scans = decoder->info_.input_scan_number;
      const std::int64_t pixels = std::int64_t{decoder->stored_height()} * decoder->stored_width();
      if (scans > kMaxScans || scans * pixels > kMaxScannedPixels) {
        std::snprintf(decoder->message_, sizeof(decoder->message_), "it has too many scans");
        decoder->jump();
      }
    };
  }
  // Destroying is safe in every state: create() was at least begun, or the structure is all zero.
  ~JpegDecoder() { jpeg_destroy_decompress(&info_); }
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  void read_header() {
    if (setjmp(escape_) != 0) fail_with_message();
    jpeg_create_decompress(&info_);
    info_.client_data = this;
    info_.src = &source_;
    info_.progress = &progress_;
    jpeg_save_markers(&info_, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&info_, TRUE);
  }

  void start(unsigned denominator) {
    if (setjmp(escape_) != 0) fail_with_message();
    info_.scale_num = 1;
    info_.scale_denom = denominator;
    info_.dct_method = JDCT_ISLOW;
    info_.out_color_space = cmyk() ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(&info_);
  }

  /// The next row of the output: width * (4 for CMYK, else 3) bytes.
  void read_rows(std::uint8_t* pixels, std::size_t stride_bytes, int rows) {
    if (setjmp(escape_) != 0) fail_with_message();
    for (int row = 0; row < rows;) {
      JSAMPROW pointers[8];
      const int wanted = std::min(8, rows - row);
      for (int i = 0; i < wanted; ++i) pointers[i] = pixels + static_cast<std::size_t>(row + i) * stride_bytes;
      row += static_cast<int>(jpeg_read_scanlines(&info_, pointers, static_cast<JDIMENSION>(wanted)));
    }
  }

  /// Reads to the end of the file, so that a missing end is noticed.
  void finish() {
    if (setjmp(escape_) != 0) fail_with_message();
    jpeg_finish_decompress(&info_);
  }

  bool cmyk() const { return info_.num_components == 4; }
  int stored_height() const { return static_cast<int>(info_.image_height); }
  int stored_width() const { return static_cast<int>(info_.image_width); }
  int height() const { return static_cast<int>(info_.output_height); }
  int width() const { return static_cast<int>(info_.output_width); }

  int orientation() const {
    for (const jpeg_marker_struct* marker = info_.marker_list; marker != nullptr; marker = marker->next) {
      if (marker->marker != JPEG_APP0 + 1) continue;
      const int found = exif_orientation(std::as_bytes(std::span(marker->data, marker->data_length)));
      if (found != 1) return found;
    }
    return 1;
  }

 private:
  template <typename Info>
  static JpegDecoder* self(Info* info) {
    return static_cast<JpegDecoder*>(info->client_data);
  }

  [[noreturn]] void jump() { std::longjmp(escape_, 1); }

  [[noreturn]] void stop(j_common_ptr info) {
    static_assert(sizeof(message_) >= JMSG_LENGTH_MAX);
    info->err->format_message(info, message_);
    jump();
  }

  /// Level -1 is a warning; other levels trace. A warning means damage, except where the pixels are known to be whole:
  /// bytes left over before the end marker (common in the wild, ImageNet included) and oddities of the header.
  void warn(j_common_ptr info, int level) {
    if (level >= 0) return;
    constexpr int kEndMarker = 0xD9;
    const jpeg_error_mgr& error = *info->err;
    if (error.msg_code == JWRN_EXTRANEOUS_DATA && error.msg_parm.i[1] == kEndMarker) return;
    if (error.msg_code == JWRN_ADOBE_XFORM || error.msg_code == JWRN_JFIF_MAJOR ||
        error.msg_code == JWRN_NOT_SEQUENTIAL) {
      return;
    }
    stop(info);
  }

  [[noreturn]] void fail_with_message() {
    if (truncated_) fail_truncated(name_, "JPEG");
    fail_broken(name_, "JPEG", message_);
  }

  std::string name_;
  jpeg_decompress_struct info_{};
  jpeg_error_mgr errors_{};
  jpeg_source_mgr source_{};
  jpeg_progress_mgr progress_{};
  std::jmp_buf escape_{};
  char message_[JMSG_LENGTH_MAX]{};
  bool truncated_ = false;
};

/// Pillow's CMYK to RGB, of samples stored inverted as Adobe does.
void inverted_cmyk_to_rgb(const std::uint8_t* cmyk, int width, std::uint8_t* rgb) {
  for (int x = 0; x < width; ++x, cmyk += 4, rgb += 3) {
    const int light = cmyk[3];
    for (int c = 0; c < 3; ++c) {
      const int product = (255 - cmyk[c]) * light + 128;
      rgb[c] = static_cast<std::uint8_t>(std::max(0, light - ((product >> 8) + product) / 256));
    }
  }
}

unsigned scale_denominator(int height, int width, int min_side_px) {
  if (min_side_px <= 0) return 1;
  for (const int denominator : {8, 4, 2}) {
    // libjpeg rounds sides up.
    const int shorter = (std::min(height, width) + denominator - 1) / denominator;
    if (shorter >= min_side_px) return static_cast<unsigned>(denominator);
  }
  return 1;
}

}  // namespace

void decode_jpeg(std::span<const std::byte> bytes, std::string_view name, const DecodeOptions& options, Image& image) {
  JpegDecoder decoder(bytes, name);
  decoder.read_header();
  const int stored_height = decoder.stored_height();
  const int stored_width = decoder.stored_width();
  require_size(name, stored_height, stored_width, options.max_pixels);
  const auto large = lock_if_large(std::int64_t{stored_height} * stored_width);
  decoder.start(scale_denominator(stored_height, stored_width, options.min_side_px));
  image.resize(decoder.height(), decoder.width());
  const std::size_t stride_bytes = static_cast<std::size_t>(image.width) * 3;
  if (decoder.cmyk()) {
    std::vector<std::uint8_t> row(static_cast<std::size_t>(image.width) * 4);
    for (int y = 0; y < image.height; ++y) {
      decoder.read_rows(row.data(), row.size(), 1);
      inverted_cmyk_to_rgb(row.data(), image.width, image.rgb.data() + static_cast<std::size_t>(y) * stride_bytes);
    }
  } else {
    decoder.read_rows(image.rgb.data(), stride_bytes, image.height);
  }
  const int orientation = options.apply_orientation ? decoder.orientation() : 1;
  decoder.finish();
  apply_orientation(orientation, image);
}

}  // namespace dino
