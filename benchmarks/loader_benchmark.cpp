// The loader on one thread: JPEG pictures of ImageNet's usual size in memory, decoded and cut into the ten crops.
#include "benchmarks/benchmark.h"
#include "data/decode.h"
#include "data/loader.h"

#include <fmt/format.h>

#include <jpeglib.h>
#include <cstdio>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <vector>

namespace dino::bench {
namespace {

constexpr int kHeight = 375, kWidth = 500;

/// A smooth picture with some noise, as a JPEG file of quality 90.
std::vector<std::byte> jpeg_picture(std::int64_t number) {
  Image image;
  image.resize(kHeight, kWidth);
  Random random(static_cast<std::uint64_t>(number), RandomStream::test);
  for (int y = 0; y < kHeight; ++y) {
    for (int x = 0; x < kWidth; ++x) {
      for (int c = 0; c < 3; ++c) {
        const double wave = std::sin(0.02 * x * (c + 1) + static_cast<double>(number)) * std::cos(0.03 * y);
        image.rgb[static_cast<std::size_t>((y * kWidth + x) * 3 + c)] =
            static_cast<std::uint8_t>(120 + 90 * wave + static_cast<double>(random.below(24)));
      }
    }
  }
  jpeg_compress_struct compress{};
  jpeg_error_mgr errors{};
  compress.err = jpeg_std_error(&errors);
  jpeg_create_compress(&compress);
  unsigned char* memory = nullptr;
  unsigned long size = 0;  // NOLINT(google-runtime-int): the library's type
  jpeg_mem_dest(&compress, &memory, &size);
  compress.image_width = kWidth;
  compress.image_height = kHeight;
  compress.input_components = 3;
  compress.in_color_space = JCS_RGB;
  jpeg_set_defaults(&compress);
  jpeg_set_quality(&compress, 90, TRUE);
  jpeg_start_compress(&compress, TRUE);
  while (compress.next_scanline < compress.image_height) {
    JSAMPROW row = image.rgb.data() + static_cast<std::size_t>(compress.next_scanline) * kWidth * 3;
    jpeg_write_scanlines(&compress, &row, 1);
  }
  jpeg_finish_compress(&compress);
  jpeg_destroy_compress(&compress);
  const auto* bytes = reinterpret_cast<const std::byte*>(memory);
  std::vector<std::byte> file(bytes, bytes + size);
  std::free(memory);
  return file;
}

class JpegPictures final : public ImageSource {
 public:
  explicit JpegPictures(std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) files_.push_back(jpeg_picture(i));
  }
  std::int64_t size() const override { return static_cast<std::int64_t>(files_.size()); }
  void decode(std::int64_t index, Image& image) const override {
    decode_image(files_[static_cast<std::size_t>(index)], "drawn picture", {}, image);
  }
  std::int32_t label(std::int64_t) const override { return 0; }
  std::string name(std::int64_t) const override { return "drawn picture"; }

 private:
  std::vector<std::vector<std::byte>> files_;
};

Prepared prepare(Bench& bench) {
  const std::int64_t count = bench.workload().name == "tiny" ? 4 : 16;
  const auto pictures = std::make_shared<JpegPictures>(count);
  const MultiCropOptions crops{.global_size_px = static_cast<int>(bench.workload().global_px),
                               .local_size_px = static_cast<int>(bench.workload().local_px)};
  const auto run = [=] {
    Loader loader(*pictures, {.size = pictures->size(), .batch = 4}, multi_crop_views(crops, 0),
                  {.threads = 1, .prefetch_batches = 2, .end_epoch = 1});
    Batch batch;
    while (loader.next(batch)) {
    }
  };
  return {.size = fmt::format("{} x {} px, 10 crops", kWidth, kHeight),
          .run = run,
          .items = static_cast<double>(count),
          .item = "images"};
}

Prepared prepare_decoding(Bench& bench) {
  const std::int64_t count = bench.workload().name == "tiny" ? 4 : 16;
  const auto pictures = std::make_shared<JpegPictures>(count);
  const auto run = [=] {
    Image image;
    for (std::int64_t i = 0; i < count; ++i) pictures->decode(i, image);
  };
  return {.size = fmt::format("{} x {} px", kWidth, kHeight),
          .run = run,
          .items = static_cast<double>(count),
          .item = "images"};
}

const Registered kDecode{{"loader", "decode", prepare_decoding, {DType::uint8}, true}};
const Registered kLoader{{"loader", "decode and crops", prepare, {DType::uint8}, true}};

}  // namespace
}  // namespace dino::bench
