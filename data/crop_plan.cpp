#include "data/crop_plan.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

namespace dino {
namespace {

void require_probability(double value, std::string_view name) {
  require(value >= 0 && value <= 1, "crops", "{} must lie in [0, 1]; got {}", name, value);
}

void require_range(double low, double high, double least, double most, std::string_view name) {
  require(low > least && low <= high && high <= most, "crops", "{} must be a range above {} and up to {}; got {} to {}",
          name, least, most, low, high);
}

/// Half to even, as Python rounds.
int round_half_even(double value) { return static_cast<int>(std::nearbyint(value)); }

void draw_jitter(const MultiCropOptions& options, Random& random, CropPlan& plan) {
  plan.jitter_steps = 4;
  for (std::uint32_t i = 3; i > 0; --i) std::swap(plan.jitter_order[i], plan.jitter_order[random.below(i + 1)]);
  const auto factor = [&](double strength) {
    return static_cast<float>(random.uniform(std::max(0.0, 1.0 - strength), 1.0 + strength));
  };
  plan.brightness = factor(options.brightness);
  plan.contrast = factor(options.contrast);
  plan.saturation = factor(options.saturation);
  plan.hue = random.uniform(-options.hue, options.hue);
}

}  // namespace

void check_options(const MultiCropOptions& options) {
  require(options.global_crops >= 1, "crops", "at least one global crop is needed; got {}", options.global_crops);
  require(options.local_crops >= 0, "crops", "the number of local crops must not be negative; got {}",
          options.local_crops);
  require(options.global_size_px >= 1 && options.local_size_px >= 1, "crops", "sizes must be positive; got {} and {}",
          options.global_size_px, options.local_size_px);
  require_range(options.global_scale_min, options.global_scale_max, 0, 1, "the scale of global crops");
  require_range(options.local_scale_min, options.local_scale_max, 0, 1, "the scale of local crops");
  require_range(options.ratio_min, options.ratio_max, 0, 1e6, "the aspect ratio");
  require_range(options.blur_radius_min, options.blur_radius_max, 0, 60, "the blur radius");
  require(options.brightness >= 0 && options.contrast >= 0 && options.saturation >= 0, "crops",
          "jitter strengths must not be negative; got {}, {} and {}", options.brightness, options.contrast,
          options.saturation);
  require(options.hue >= 0 && options.hue <= 0.5, "crops", "the hue strength must lie in [0, 0.5]; got {}",
          options.hue);
  require_probability(options.flip_probability, "the flip probability");
  require_probability(options.jitter_probability, "the jitter probability");
  require_probability(options.grey_probability, "the grey probability");
  require_probability(options.blur_probability_global_1, "the blur probability of global crop 1");
  require_probability(options.blur_probability_global_2, "the blur probability of global crop 2");
  require_probability(options.blur_probability_local, "the blur probability of local crops");
  require_probability(options.solarize_probability_global_2, "the solarize probability");
}

CropPlan plan_random_resized_crop(int image_height, int image_width, int size_px, double scale_min, double scale_max,
                                  double ratio_min, double ratio_max, ResizeFilter filter, Random& random) {
  CropPlan plan;
  plan.resized_height = plan.resized_width = plan.output_height = plan.output_width = size_px;
  plan.filter = filter;
  const double area = static_cast<double>(image_height) * image_width;
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double target = area * random.uniform(scale_min, scale_max);
    const double ratio = std::exp(random.uniform(std::log(ratio_min), std::log(ratio_max)));
    plan.width = round_half_even(std::sqrt(target * ratio));
    plan.height = round_half_even(std::sqrt(target / ratio));
    if (plan.width > 0 && plan.width <= image_width && plan.height > 0 && plan.height <= image_height) {
      plan.top = static_cast<int>(random.below(static_cast<std::uint32_t>(image_height - plan.height + 1)));
      plan.left = static_cast<int>(random.below(static_cast<std::uint32_t>(image_width - plan.width + 1)));
      return plan;
    }
  }
  const double ratio = static_cast<double>(image_width) / image_height;
  plan.width = image_width;
  plan.height = image_height;
  if (ratio < ratio_min) plan.height = std::clamp(round_half_even(image_width / ratio_min), 1, image_height);
  if (ratio > ratio_max) plan.width = std::clamp(round_half_even(image_height * ratio_max), 1, image_width);
  plan.top = (image_height - plan.height) / 2;
  plan.left = (image_width - plan.width) / 2;
  return plan;
}

CropPlan plan_crop(int image_height, int image_width, int view, const MultiCropOptions& options, std::uint64_t seed,
                   std::uint64_t epoch, std::uint64_t sample) {
  Random random(seed, RandomStream::crops, epoch, sample, static_cast<std::uint32_t>(view));
  const bool global = view < options.global_crops;
  CropPlan plan = global ? plan_random_resized_crop(image_height, image_width, options.global_size_px,
                                                    options.global_scale_min, options.global_scale_max,
                                                    options.ratio_min, options.ratio_max, options.filter, random)
                         : plan_random_resized_crop(image_height, image_width, options.local_size_px,
                                                    options.local_scale_min, options.local_scale_max, options.ratio_min,
                                                    options.ratio_max, options.filter, random);
  plan.flip = random.chance(options.flip_probability);
  if (random.chance(options.jitter_probability)) draw_jitter(options, random, plan);
  plan.grey = random.chance(options.grey_probability);
  const double blur_probability = !global     ? options.blur_probability_local
                                  : view == 0 ? options.blur_probability_global_1
                                              : options.blur_probability_global_2;
  if (random.chance(blur_probability)) {
    plan.blur_radius = static_cast<float>(random.uniform(options.blur_radius_min, options.blur_radius_max));
  }
  plan.solarize = global && view > 0 && random.chance(options.solarize_probability_global_2);
  return plan;
}

CropPlan plan_linear_probe_crop(int image_height, int image_width, int size_px, std::uint64_t seed, std::uint64_t epoch,
                                std::uint64_t sample) {
  Random random(seed, RandomStream::linear_probe, epoch, sample);
  CropPlan plan = plan_random_resized_crop(image_height, image_width, size_px, 0.08, 1.0, 3.0 / 4.0, 4.0 / 3.0,
                                           ResizeFilter::bilinear, random);
  plan.flip = random.chance(0.5);
  return plan;
}

CropPlan plan_short_side(int image_height, int image_width, int short_side_px, ResizeFilter filter) {
  require(image_height > 0 && image_width > 0 && short_side_px > 0, "resize",
          "sizes must be positive; got {} x {} to {}", image_height, image_width, short_side_px);
  CropPlan plan;
  plan.height = image_height;
  plan.width = image_width;
  // A line of 16 million pixels would become longer than a number can say; of so long a box only a window is made.
  constexpr std::int64_t kLongest_px = std::int64_t{1} << 30;
  const auto long_side = [&](int long_px, int short_px) {
    return static_cast<int>(std::min(kLongest_px, std::int64_t{short_side_px} * long_px / short_px));
  };
  plan.resized_height = image_height <= image_width ? short_side_px : long_side(image_height, image_width);
  plan.resized_width = image_height <= image_width ? long_side(image_width, image_height) : short_side_px;
  plan.output_height = plan.resized_height;
  plan.output_width = plan.resized_width;
  plan.filter = filter;
  return plan;
}

CropPlan plan_center_crop(int image_height, int image_width, int short_side_px, int size_px, ResizeFilter filter) {
  require(size_px > 0 && size_px <= short_side_px, "resize",
          "the centre crop must not be larger than the short side; got {} and {}", size_px, short_side_px);
  CropPlan plan = plan_short_side(image_height, image_width, short_side_px, filter);
  plan.output_height = plan.output_width = size_px;
  plan.window_top = round_half_even((plan.resized_height - size_px) / 2.0);
  plan.window_left = round_half_even((plan.resized_width - size_px) / 2.0);
  return plan;
}

}  // namespace dino
