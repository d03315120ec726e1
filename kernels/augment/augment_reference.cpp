#include "kernels/augment/augment.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace dino::reference {
namespace {

/// A small picture with checked-by-clamping access.
struct Picture {
  int height, width;
  std::vector<std::uint8_t> rgb;

  Picture(int h, int w) : height(h), width(w), rgb(static_cast<std::size_t>(h) * static_cast<std::size_t>(w) * 3) {}
  std::uint8_t& at(int y, int x, int c) {
    y = std::clamp(y, 0, height - 1);
    x = std::clamp(x, 0, width - 1);
    return rgb[(static_cast<std::size_t>(y) * static_cast<std::size_t>(width) + static_cast<std::size_t>(x)) * 3 +
               static_cast<std::size_t>(c)];
  }
};

template <typename Function>
void for_each_pixel(Picture& picture, Function&& function) {
  for (int y = 0; y < picture.height; ++y) {
    for (int x = 0; x < picture.width; ++x) function(&picture.at(y, x, 0), y, x);
  }
}

/// The kernel of Keys (1981) with a = -1/2, and the triangle.
double filter_value(ResizeFilter filter, double x) {
  x = std::abs(x);
  if (filter == ResizeFilter::bilinear) return std::max(0.0, 1.0 - x);
  if (x < 1.0) return 1.5 * x * x * x - 2.5 * x * x + 1.0;
  if (x < 2.0) return -0.5 * x * x * x + 2.5 * x * x - 4.0 * x + 2.0;
  return 0.0;
}

std::uint8_t clip(std::int64_t value) { return static_cast<std::uint8_t>(std::clamp<std::int64_t>(value, 0, 255)); }

/// Resizes along x; the weights are rounded to 22 fractional bits.
Picture resize_x(Picture& from, int width, ResizeFilter filter) {
  if (width == from.width) return from;
  Picture to(from.height, width);
  const double scale = static_cast<double>(from.width) / width;
  const double stretch = std::max(scale, 1.0);
  const double support = (filter == ResizeFilter::bicubic ? 2.0 : 1.0) * stretch;
  for (int x = 0; x < width; ++x) {
    const double center = (x + 0.5) * scale;
    const int begin = std::max(0, static_cast<int>(center - support + 0.5));
    const int end = std::min(from.width, static_cast<int>(center + support + 0.5));
    std::vector<double> weights;
    double sum = 0;
    for (int i = begin; i < end; ++i) {
      weights.push_back(filter_value(filter, (i + 0.5 - center) / stretch));
      sum += weights.back();
    }
    for (int y = 0; y < from.height; ++y) {
      for (int c = 0; c < 3; ++c) {
        std::int64_t value = 1 << 21;
        for (int i = begin; i < end; ++i) {
          value += std::lround(weights[static_cast<std::size_t>(i - begin)] / sum * (1 << 22)) * from.at(y, i, c);
        }
        to.at(y, x, c) = clip(value >> 22);
      }
    }
  }
  return to;
}

Picture transposed(Picture& from) {
  Picture to(from.width, from.height);
  for_each_pixel(to, [&](std::uint8_t* p, int y, int x) { std::copy_n(&from.at(x, y, 0), 3, p); });
  return to;
}

int grey_value(const std::uint8_t* p) { return (19595 * p[0] + 38470 * p[1] + 7471 * p[2] + 32768) >> 16; }

/// `from` for factor 0, `to` for factor 1; single precision as Pillow has it.
std::uint8_t blend(int from, int to, float factor) {
  const float step = factor * static_cast<float>(to - from);
  const float value = static_cast<float>(from) + step;
  return value <= 0.0F ? 0 : value >= 255.0F ? 255 : static_cast<std::uint8_t>(value);
}

/// Smith (1978), with 8 bits for each of H, S and V.
void shift_hue(std::uint8_t* p, int shift) {
  const int high = std::max({p[0], p[1], p[2]});
  const int low = std::min({p[0], p[1], p[2]});
  if (high == low) return;
  const auto range = static_cast<float>(high - low);
  const float r = static_cast<float>(high - p[0]) / range;
  const float g = static_cast<float>(high - p[1]) / range;
  const float b = static_cast<float>(high - p[2]) / range;
  double sixths = 0;
  if (p[0] == high) {
    sixths = b - g;
  } else if (p[1] == high) {
    sixths = 2.0 + r - b;
  } else {
    sixths = 4.0 + g - r;
  }
  const auto turn = static_cast<float>(std::fmod(static_cast<float>(sixths) / 6.0 + 1.0, 1.0));
  const int saturation = static_cast<int>(static_cast<double>(range / static_cast<float>(high)) * 255.0);
  const int hue = (static_cast<int>(turn * 255.0) + shift) & 255;
  if (saturation == 0) {
    p[0] = p[1] = p[2] = static_cast<std::uint8_t>(high);
    return;
  }
  const int sector = hue * 6 / 255;
  const double fraction = hue * 6 / 255.0 - sector;
  const double s = saturation / 255.0;
  const std::uint8_t none = clip(std::lround(high * (1.0 - s)));
  const std::uint8_t falling = clip(std::lround(high * (1.0 - s * fraction)));
  const std::uint8_t rising = clip(std::lround(high * (1.0 - s * (1.0 - fraction))));
  const std::uint8_t full = static_cast<std::uint8_t>(high);
  const std::uint8_t sectors[6][3] = {{full, rising, none},  {falling, full, none}, {none, full, rising},
                                      {none, falling, full}, {rising, none, full},  {full, none, falling}};
  std::copy_n(sectors[sector % 6], 3, p);
}

void jitter(Picture& picture, const CropPlan& plan, JitterStep step) {
  const auto blend_pixels = [&](auto&& from, float factor) {
    for_each_pixel(picture, [&](std::uint8_t* p, int, int) {
      const int a = from(p);
      for (int c = 0; c < 3; ++c) p[c] = blend(a, p[c], factor);
    });
  };
  switch (step) {
    case JitterStep::brightness: blend_pixels([](const std::uint8_t*) { return 0; }, plan.brightness); break;
    case JitterStep::contrast: {
      double sum = 0;
      for_each_pixel(picture, [&](std::uint8_t* p, int, int) { sum += grey_value(p); });
      const int mean = static_cast<int>(sum / (picture.height * picture.width) + 0.5);
      blend_pixels([mean](const std::uint8_t*) { return mean; }, plan.contrast);
      break;
    }
    case JitterStep::saturation: blend_pixels(grey_value, plan.saturation); break;
    case JitterStep::hue:
      for_each_pixel(picture, [&](std::uint8_t* p, int, int) { shift_hue(p, static_cast<int>(plan.hue * 255.0)); });
      break;
  }
}

/// Radius of the box that, applied three times, has this standard deviation (Gwosdek et al., SSVM 2011).
float box_radius(float sigma) {
  const float variance = sigma * sigma / 3.0F;
  const auto length = static_cast<float>(std::sqrt(12.0 * static_cast<double>(variance) + 1.0));
  const auto whole = static_cast<float>(std::floor((static_cast<double>(length) - 1.0) / 2.0));
  const float above = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance);
  const float below = 6 * (variance - (whole + 1) * (whole + 1));
  return whole + above / below;
}

/// Mean over 2·radius + 1 pixels, of which the outermost two count in part.
Picture box_blur_x(Picture& from, float radius) {
  const int whole = static_cast<int>(radius);
  const auto weight = static_cast<std::int64_t>(static_cast<float>(1 << 24) / (radius * 2 + 1));
  const std::int64_t border_weight = ((1 << 24) - (2 * whole + 1) * weight) / 2;
  Picture to(from.height, from.width);
  for_each_pixel(to, [&](std::uint8_t* p, int y, int x) {
    for (int c = 0; c < 3; ++c) {
      std::int64_t sum = 1 << 23;
      for (int i = x - whole; i <= x + whole; ++i) sum += weight * from.at(y, i, c);
      sum += border_weight * (from.at(y, x - whole - 1, c) + from.at(y, x + whole + 1, c));
      p[c] = static_cast<std::uint8_t>(sum >> 24);
    }
  });
  return to;
}

}  // namespace

void augment_crop(const AugmentCrop& args) {
  check_crop(args);
  const CropPlan& plan = args.plan;
  const auto* image = args.image.as<std::uint8_t>();
  Picture box(plan.height, plan.width);
  for_each_pixel(box, [&](std::uint8_t* p, int y, int x) {
    std::copy_n(image + ((plan.top + y) * args.image.extent(1) + plan.left + x) * 3, 3, p);
  });
  Picture resized = resize_x(box, plan.resized_width, plan.filter);
  Picture turned = transposed(resized);
  turned = resize_x(turned, plan.resized_height, plan.filter);
  resized = transposed(turned);

  Picture crop(plan.output_height, plan.output_width);
  for_each_pixel(crop, [&](std::uint8_t* p, int y, int x) {
    const int column = plan.flip ? plan.output_width - 1 - x : x;
    std::copy_n(&resized.at(plan.window_top + y, plan.window_left + column, 0), 3, p);
  });
  for (int i = 0; i < plan.jitter_steps; ++i) jitter(crop, plan, plan.jitter_order[static_cast<std::size_t>(i)]);
  if (plan.grey) {
    for_each_pixel(crop,
                   [](std::uint8_t* p, int, int) { std::fill_n(p, 3, static_cast<std::uint8_t>(grey_value(p))); });
  }
  if (plan.blur_radius > 0) {
    const float radius = box_radius(plan.blur_radius);
    for (int turn = 0; turn < 2; ++turn) {
      for (int pass = 0; pass < 3; ++pass) crop = box_blur_x(crop, radius);
      crop = transposed(crop);
    }
  }
  if (plan.solarize) {
    for (std::uint8_t& value : crop.rgb) value = value < 128 ? value : static_cast<std::uint8_t>(255 - value);
  }
  std::copy(crop.rgb.begin(), crop.rgb.end(), args.output.as<std::uint8_t>());
}

void augment_crops(const AugmentCrops& args) {
  check_crop_tables(args);
  for (std::int64_t i = 0; i < args.output.extent(0); ++i) augment_crop(single_crop(args, i));
}

}  // namespace dino::reference
