#include "api/pictures.h"

#include "api/options.h"
#include "api/refusal.h"
#include "data/crop_plan.h"
#include "data/decode.h"
#include "evaluate/features.h"
#include "kernels/common/parallel.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <memory>

namespace dino::api {
namespace {

constexpr int kWholeShortSidePx = 480;   // of the official attention pictures
constexpr int kLargestSidePx = 1 << 16;  // of a view
constexpr int kLongestSidePx = 1 << 22;  // of a picture, resized for a view that shows a part of it
constexpr double kMostPixels = 64e6;     // of a view: a million patches of 8×8

int bytes_of_pixel(std::int32_t format) {
  switch (format) {
    case DINO_RGB8:
    case DINO_BGR8: return 3;
    case DINO_RGBA8:
    case DINO_BGRA8: return 4;
    case DINO_GREY8: return 1;
    case DINO_NORMALIZED_F32: return sizeof(float);  // of one channel
    default: return 0;
  }
}

/// Throws Refusal unless the picture's own numbers go together.
void check_image(const dino_image& image, std::size_t number) {
  const int pixel_bytes = bytes_of_pixel(image.format);
  require_argument(pixel_bytes > 0, "image", "picture {} has the unknown format {}; expected DINO_RGB8, …", number,
                   image.format);
  require_argument(image.reserved == 0, "image", "picture {}: the member reserved is {}, expected 0", number,
                   image.reserved);
  const std::int64_t most = DecodeOptions{}.max_pixels;
  require_argument(image.height >= 1 && image.width >= 1 && image.height <= most / image.width, "image",
                   "picture {} has {}×{} pixels; expected at least 1×1 and at most {} pixels in all", number,
                   image.width, image.height, most);
  require_argument(image.pixels != nullptr, "image", "picture {} has no pixels: the pointer is null", number);
  const std::int64_t row_bytes = image.width * pixel_bytes;
  const std::int64_t stride = image.row_stride_bytes;
  if (image.format == DINO_NORMALIZED_F32) {
    require_argument(stride == 0 || stride == row_bytes, "image",
                     "picture {}: the rows of a normalised picture lie close together; got a stride of {} bytes, "
                     "expected {}",
                     number, stride, row_bytes);
    return;
  }
  constexpr std::int64_t kLargestStride = std::int64_t{1} << 31;
  require_argument(stride == 0 || (stride >= row_bytes && stride <= kLargestStride), "image",
                   "picture {}: got a stride of {} bytes, expected 0, or {} (rows of {} pixels) to {}", number, stride,
                   row_bytes, image.width, kLargestStride);
}

CropPlan plan_of(int height, int width, const dino_view& view, int patch_px) {
  if (view.kind == DINO_VIEW_CENTER)
    return plan_center_crop(height, width, view.short_side_px, view.crop_px, ResizeFilter::bicubic);
  CropPlan plan = plan_short_side(height, width, view.short_side_px, ResizeFilter::bilinear);
  plan.output_height = plan.resized_height / patch_px * patch_px;
  plan.output_width = plan.resized_width / patch_px * patch_px;
  return plan;
}

/// The pixels as (height, width, 3) RGB without gaps: the caller's own where they lie so, else a copy in `copy`.
ConstArray rgb_of(const dino_image& image, Image& copy) {
  const auto height = static_cast<int>(image.height), width = static_cast<int>(image.width);
  const int pixel_bytes = bytes_of_pixel(image.format);
  const std::int64_t row_bytes = image.width * pixel_bytes;
  const std::int64_t stride = image.row_stride_bytes == 0 ? row_bytes : image.row_stride_bytes;
  const auto* pixels = static_cast<const std::uint8_t*>(image.pixels);
  if (image.format == DINO_RGB8 && stride == row_bytes) return {pixels, DType::uint8, {height, width, 3}};
  const bool grey = image.format == DINO_GREY8;
  const bool swapped = image.format == DINO_BGR8 || image.format == DINO_BGRA8;
  const int red = swapped ? 2 : 0, green = grey ? 0 : 1, blue = grey || swapped ? 0 : 2;
  copy.resize(height, width);
  std::uint8_t* out = copy.rgb.data();
  for (std::int64_t y = 0; y < image.height; ++y) {
    const std::uint8_t* in = pixels + y * stride;
    for (std::int64_t x = 0; x < image.width; ++x, in += pixel_bytes) {
      *out++ = in[red];
      *out++ = in[green];
      *out++ = in[blue];
    }
  }
  return std::as_const(copy).array();
}

void prepare_one(const dino_image& image, std::size_t number, const dino_view& view, const Prepared& size, int patch_px,
                 std::byte* to) {
  if (size.normalized) {
    std::memcpy(to, image.pixels, size.bytes());
    const auto* values = reinterpret_cast<const float*>(to);  // aligned, which the caller's need not be
    require_argument(
        std::all_of(values, values + size.bytes() / sizeof(float), [](float x) { return std::isfinite(x); }), "image",
        "picture {} holds numbers that are not finite", number);
    return;
  }
  Image copy;
  const ConstArray rgb = rgb_of(image, copy);
  if (view.kind == DINO_VIEW_AS_IS) {
    std::memcpy(to, rgb.data(), size.bytes());
    return;
  }
  const CropPlan plan = plan_of(static_cast<int>(image.height), static_cast<int>(image.width), view, patch_px);
  // Pictures are in the host's memory, whatever the network runs on.
  const std::unique_ptr<Stream> stream = make_cpu_stream();
  augment_crop({.image = rgb, .plan = plan, .output = {to, DType::uint8, {size.height_px, size.width_px, 3}}}, *stream);
}

}  // namespace

dino_view complete_view(const dino_view* view, const VitConfig& config) {
  dino_view full = complete(view, "view");
  require_argument(full.kind >= DINO_VIEW_CENTER && full.kind <= DINO_VIEW_AS_IS, "view",
                   "unknown kind {}; expected DINO_VIEW_CENTER, DINO_VIEW_WHOLE or DINO_VIEW_AS_IS", full.kind);
  require_argument(full.crop_px >= 0 && full.crop_px <= kLargestSidePx && full.short_side_px >= 0 &&
                       full.short_side_px <= kLargestSidePx,
                   "view", "sides must lie between 0 (the default) and {}; got crop_px {} and short_side_px {}",
                   kLargestSidePx, full.crop_px, full.short_side_px);
  if (full.kind == DINO_VIEW_CENTER) {
    if (full.crop_px == 0) full.crop_px = config.image_px;
    if (full.short_side_px == 0) full.short_side_px = FeatureOptions::for_image_size(full.crop_px).short_side_px;
    require_argument(full.crop_px % config.patch_px == 0, "view",
                     "crop_px must be a multiple of the patch size {}; got {}", config.patch_px, full.crop_px);
    require_argument(full.crop_px <= full.short_side_px, "view",
                     "the crop must not be larger than the short side; got crop_px {} and short_side_px {}",
                     full.crop_px, full.short_side_px);
    return full;
  }
  require_argument(full.crop_px == 0, "view", "crop_px is for DINO_VIEW_CENTER alone; got {}", full.crop_px);
  if (full.kind == DINO_VIEW_AS_IS) {
    require_argument(full.short_side_px == 0, "view", "DINO_VIEW_AS_IS does not resize; got short_side_px {}",
                     full.short_side_px);
    return full;
  }
  if (full.short_side_px == 0) full.short_side_px = kWholeShortSidePx;
  require_argument(full.short_side_px >= config.patch_px, "view", "short_side_px {} is below the patch size of {}",
                   full.short_side_px, config.patch_px);
  return full;
}

Prepared prepared_size(const dino_image& image, std::size_t number, const dino_view& view, const VitConfig& config) {
  check_image(image, number);
  const bool as_is = view.kind == DINO_VIEW_AS_IS;
  const bool normalized = image.format == DINO_NORMALIZED_F32;
  require_argument(!normalized || as_is, "image",
                   "picture {} is normalised already, so it cannot be resized; try DINO_VIEW_AS_IS", number);
  Prepared size{.normalized = normalized};
  if (as_is) {
    size.height_px = static_cast<int>(image.height);
    size.width_px = static_cast<int>(image.width);
    require_argument(size.height_px % config.patch_px == 0 && size.width_px % config.patch_px == 0, "image",
                     "picture {} has {}×{} pixels, which are no multiples of the patch size {}; try DINO_VIEW_WHOLE",
                     number, image.width, image.height, config.patch_px);
  } else {
    const auto [shorter, longer] = std::minmax(image.height, image.width);
    const double resized_px =
        static_cast<double>(view.short_side_px) * static_cast<double>(longer) / static_cast<double>(shorter);
    require_argument(resized_px <= kLongestSidePx, "image",
                     "picture {} of {}×{} pixels is too long: {:.0f} pixels with a short side of {}; expected at most "
                     "{}",
                     number, image.width, image.height, resized_px, view.short_side_px, kLongestSidePx);
    const CropPlan plan = plan_of(static_cast<int>(image.height), static_cast<int>(image.width), view, config.patch_px);
    size.height_px = plan.output_height;
    size.width_px = plan.output_width;
  }
  const double pixels = static_cast<double>(size.height_px) * size.width_px;
  require_argument(pixels <= kMostPixels, "image",
                   "picture {} would be seen with {:.0f} million pixels; expected at most {:.0f} million; try a "
                   "smaller view",
                   number, pixels * 1e-6, kMostPixels * 1e-6);
  return size;
}

void prepare(std::span<const dino_image> images, std::size_t first, const dino_view& view, const Prepared& size,
             int patch_px, std::vector<std::byte>& to) {
  to.resize(images.size() * size.bytes());
  std::vector<std::exception_ptr> failures(images.size());
  parallel_items(static_cast<std::int64_t>(images.size()), [&](std::int64_t at) {
    const auto i = static_cast<std::size_t>(at);
    try {
      prepare_one(images[i], first + i, view, size, patch_px, to.data() + i * size.bytes());
    } catch (...) {
      failures[i] = std::current_exception();
    }
  });
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

}  // namespace dino::api
