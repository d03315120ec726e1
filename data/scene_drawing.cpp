// Everything is drawn in float, once per scene, at the size of the scene: clarity before speed.
#include "data/scene_drawing.h"

#include "kernels/common/error.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

namespace dino {
namespace {

/// Rows, columns, channels of floats.
struct Plane {
  int height = 0;
  int width = 0;
  int channels = 0;
  std::vector<float> values;

  Plane(int h, int w, int c)
      : height(h),
        width(w),
        channels(c),
        values(static_cast<std::size_t>(h) * static_cast<std::size_t>(w) * static_cast<std::size_t>(c)) {}
  float* at(int y, int x) {
    return values.data() +
           (static_cast<std::size_t>(y) * static_cast<std::size_t>(width) + static_cast<std::size_t>(x)) *
               static_cast<std::size_t>(channels);
  }
  const float* at(int y, int x) const { return const_cast<Plane*>(this)->at(y, x); }
};

/// Averages `length` pixels down to `count` along columns: output i covers [i, i + 1) * length / count.
Plane average_columns(const Plane& in, int count) {
  Plane out(in.height, count, in.channels);
  const double step = static_cast<double>(in.width) / count;
  for (int x = 0; x < count; ++x) {
    const double begin = x * step;
    const double end = begin + step;
    const int first = static_cast<int>(begin);
    const int last = std::min(in.width - 1, static_cast<int>(std::ceil(end)) - 1);
    for (int k = first; k <= last; ++k) {
      const double covered = std::min(end, k + 1.0) - std::max(begin, static_cast<double>(k));
      const auto weight = static_cast<float>(covered / step);
      for (int y = 0; y < in.height; ++y) {
        for (int c = 0; c < in.channels; ++c) out.at(y, x)[c] += weight * in.at(y, k)[c];
      }
    }
  }
  return out;
}

Plane transposed(const Plane& in) {
  Plane out(in.width, in.height, in.channels);
  for (int y = 0; y < in.height; ++y) {
    for (int x = 0; x < in.width; ++x) std::copy_n(in.at(y, x), in.channels, out.at(x, y));
  }
  return out;
}

Plane average_to(const Plane& in, int height, int width) {
  return transposed(average_columns(transposed(average_columns(in, width)), height));
}

/// Gaussian blur along columns; the border repeats.
Plane blur_columns(const Plane& in, double sigma_px) {
  const int radius = static_cast<int>(std::ceil(3 * sigma_px));
  std::vector<float> weights;
  double sum = 0;
  for (int k = -radius; k <= radius; ++k) {
    weights.push_back(static_cast<float>(std::exp(-0.5 * (k / sigma_px) * (k / sigma_px))));
    sum += weights.back();
  }
  Plane out(in.height, in.width, in.channels);
  for (int y = 0; y < in.height; ++y) {
    for (int x = 0; x < in.width; ++x) {
      for (int k = -radius; k <= radius; ++k) {
        const float weight = weights[static_cast<std::size_t>(k + radius)] / static_cast<float>(sum);
        const float* pixel = in.at(y, std::clamp(x + k, 0, in.width - 1));
        for (int c = 0; c < in.channels; ++c) out.at(y, x)[c] += weight * pixel[c];
      }
    }
  }
  return out;
}

/// A blurred random square of a random photograph, RGB in 0..1.
Plane draw_background(const std::vector<Image>& photographs, const SceneStyle& style, Random& random) {
  const Image& photograph = photographs[random.below(static_cast<std::uint32_t>(photographs.size()))];
  const int shorter = std::min(photograph.height, photograph.width);
  const int side = std::clamp(static_cast<int>(shorter * random.uniform(0.25, 0.75)), 1, shorter);
  const int top = static_cast<int>(random.below(static_cast<std::uint32_t>(photograph.height - side + 1)));
  const int left = static_cast<int>(random.below(static_cast<std::uint32_t>(photograph.width - side + 1)));
  const double sigma_px = random.uniform(style.blur_min, style.blur_max) * style.size_px;
  Plane piece(side, side, 3);
  for (int y = 0; y < side; ++y) {
    const std::uint8_t* row =
        photograph.rgb.data() + (static_cast<std::size_t>(top + y) * static_cast<std::size_t>(photograph.width) +
                                 static_cast<std::size_t>(left)) *
                                    3;
    std::transform(row, row + static_cast<std::size_t>(side) * 3, piece.at(y, 0),
                   [](std::uint8_t v) { return static_cast<float>(v) / 255; });
  }
  Plane background = average_to(piece, style.size_px, style.size_px);
  if (sigma_px <= 0) return background;
  return transposed(blur_columns(transposed(blur_columns(background, sigma_px)), sigma_px));
}

/// Bilinear sample at (y, x), pixel centres at .5; transparent outside.
std::array<float, 4> sample(const CutOut& cut_out, double y, double x) {
  const double row = std::floor(y - 0.5);
  const double column = std::floor(x - 0.5);
  const auto down = static_cast<float>(y - 0.5 - row);
  const auto right = static_cast<float>(x - 0.5 - column);
  std::array<float, 4> result{};
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      const int yy = static_cast<int>(row) + i;
      const int xx = static_cast<int>(column) + j;
      if (yy < 0 || yy >= cut_out.height || xx < 0 || xx >= cut_out.width) continue;
      const float weight = (i == 1 ? down : 1 - down) * (j == 1 ? right : 1 - right);
      const float* pixel =
          cut_out.rgba.data() +
          (static_cast<std::size_t>(yy) * static_cast<std::size_t>(cut_out.width) + static_cast<std::size_t>(xx)) * 4;
      for (std::size_t c = 0; c < 4; ++c) result[c] += weight * pixel[c];
    }
  }
  return result;
}

std::uint8_t to_byte(float value) { return static_cast<std::uint8_t>(std::clamp(value, 0.0f, 1.0f) * 255 + 0.5f); }

}  // namespace

CutOut prepare_cut_out(const RgbaImage& image, int max_side_px) {
  constexpr std::uint8_t kVisible = 16;  // fainter is dust of the scan
  int top = image.height;
  int bottom = 0;
  int left = image.width;
  int right = 0;
  const auto pixel = [&](int y, int x) {
    return image.rgba.data() +
           (static_cast<std::size_t>(y) * static_cast<std::size_t>(image.width) + static_cast<std::size_t>(x)) * 4;
  };
  for (int y = 0; y < image.height; ++y) {
    for (int x = 0; x < image.width; ++x) {
      if (pixel(y, x)[3] < kVisible) continue;
      top = std::min(top, y);
      bottom = y + 1;
      left = std::min(left, x);
      right = std::max(right, x + 1);
    }
  }
  if (top >= bottom) return {};
  Plane plane(bottom - top, right - left, 4);
  for (int y = 0; y < plane.height; ++y) {
    for (int x = 0; x < plane.width; ++x) {
      const std::uint8_t* in = pixel(top + y, left + x);
      const float alpha = static_cast<float>(in[3]) / 255;
      float* out = plane.at(y, x);
      for (int c = 0; c < 3; ++c) out[c] = static_cast<float>(in[c]) / 255 * alpha;
      out[3] = alpha;
    }
  }
  const int longer = std::max(plane.height, plane.width);
  if (longer > max_side_px) {
    const double scale = static_cast<double>(max_side_px) / longer;
    plane = average_to(plane, std::max(1, static_cast<int>(std::lround(plane.height * scale))),
                       std::max(1, static_cast<int>(std::lround(plane.width * scale))));
  }
  return {plane.height, plane.width, std::move(plane.values)};
}

Scene draw_scene(const CutOut& cut_out, const std::vector<Image>& photographs, const SceneStyle& style, Random random) {
  require(cut_out.height > 0 && !photographs.empty(), "scenes", "a scene needs a cut-out and a photograph");
  const Plane background = draw_background(photographs, style, random);
  const double angle = random.uniform(-style.rotation_deg, style.rotation_deg) * std::numbers::pi / 180;
  const double cosine = std::cos(angle);
  const double sine = std::sin(angle);
  const bool mirrored = random.chance(style.mirror);
  // The turned rectangle's extents decide the scale, so that nothing is cut off.
  const double extent_x = cut_out.width * std::abs(cosine) + cut_out.height * std::abs(sine);
  const double extent_y = cut_out.width * std::abs(sine) + cut_out.height * std::abs(cosine);
  const double scale = random.uniform(style.fill_min, style.fill_max) * style.size_px / std::max(extent_x, extent_y);
  const auto place = [&](double extent) {
    const double slack = std::max(0.0, style.size_px - extent * scale);
    return 0.5 * extent * scale + random.uniform(0, slack);
  };
  const double center_x = place(extent_x);
  const double center_y = place(extent_y);

  Scene scene;
  scene.image.resize(style.size_px, style.size_px);
  scene.mask.resize(scene.image.rgb.size() / 3);
  constexpr int kSamples = 3;  // per side of a pixel
  std::uint8_t* out = scene.image.rgb.data();
  std::uint8_t* mask = scene.mask.data();
  for (int y = 0; y < style.size_px; ++y) {
    for (int x = 0; x < style.size_px; ++x) {
      std::array<float, 4> sum{};
      for (int s = 0; s < kSamples * kSamples; ++s) {
        const double dx = (x + (s % kSamples + 0.5) / kSamples - center_x) / scale;
        const double dy = (y + (s / kSamples + 0.5) / kSamples - center_y) / scale;
        const double along = cosine * dx + sine * dy;
        const std::array<float, 4> value = sample(cut_out, 0.5 * cut_out.height - sine * dx + cosine * dy,
                                                  0.5 * cut_out.width + (mirrored ? -along : along));
        for (std::size_t c = 0; c < 4; ++c) sum[c] += value[c] / (kSamples * kSamples);
      }
      for (std::size_t c = 0; c < 3; ++c) *out++ = to_byte(sum[c] + (1 - sum[3]) * background.at(y, x)[c]);
      *mask++ = to_byte(sum[3]);
    }
  }
  return scene;
}

}  // namespace dino
