#include "data/crop_plan.h"

#include "tests/support/catch.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <vector>

using namespace dino;

namespace {

constexpr int kSamples = 4000;

/// Plans of many pictures of one size for one view.
std::vector<CropPlan> draw(int view, const MultiCropOptions& options = {}, int height = 375, int width = 500) {
  std::vector<CropPlan> plans;
  for (std::uint64_t i = 0; i < kSamples; ++i) plans.push_back(plan_crop(height, width, view, options, 3, 2, i));
  return plans;
}

template <typename Condition>
double share(const std::vector<CropPlan>& plans, Condition&& condition) {
  return static_cast<double>(std::count_if(plans.begin(), plans.end(), condition)) / static_cast<double>(plans.size());
}

/// Mean share of the area, over the scales and ratios whose box fits into 375 x 500, by summing over a grid.
double expected_area(double scale_min, double scale_max) {
  constexpr int kSteps = 400;
  double sum = 0, count = 0;
  for (int i = 0; i < kSteps; ++i) {
    const double scale = scale_min + (scale_max - scale_min) * (i + 0.5) / kSteps;
    for (int j = 0; j < kSteps; ++j) {
      const double ratio = 0.75 * std::pow(16.0 / 9.0, (j + 0.5) / kSteps);
      const double area = scale * 375 * 500;
      if (std::sqrt(area * ratio) > 500.5 || std::sqrt(area / ratio) > 375.5) continue;
      sum += scale;
      ++count;
    }
  }
  return sum / count;
}

template <typename Value>
double mean(const std::vector<CropPlan>& plans, Value&& value) {
  double sum = 0;
  for (const CropPlan& plan : plans) sum += value(plan);
  return sum / static_cast<double>(plans.size());
}

}  // namespace

TEST_CASE("crops have the official sizes, scales and probabilities") {
  const auto area = [](const CropPlan& p) { return static_cast<double>(p.height) * p.width / (375.0 * 500.0); };
  struct Expected {
    double area_min, area_max, blur, solarize;
    int size;
  };
  const std::map<int, Expected> views = {{0, {0.4, 1.0, 1.0, 0.0, 224}},
                                         {1, {0.4, 1.0, 0.1, 0.2, 224}},
                                         {2, {0.05, 0.4, 0.5, 0.0, 96}},
                                         {9, {0.05, 0.4, 0.5, 0.0, 96}}};
  for (const auto& [view, expected] : views) {
    INFO("view " << view);
    const std::vector<CropPlan> plans = draw(view);
    for (const CropPlan& plan : plans) {
      REQUIRE(plan.output_height == expected.size);
      REQUIRE(plan.output_width == expected.size);
      REQUIRE(plan.resized_height == expected.size);
      REQUIRE(plan.resized_width == expected.size);
      REQUIRE((plan.top >= 0 && plan.left >= 0 && plan.top + plan.height <= 375 && plan.left + plan.width <= 500));
      REQUIRE((area(plan) >= expected.area_min - 0.005 && area(plan) <= expected.area_max + 0.005));
      const double ratio = static_cast<double>(plan.width) / plan.height;
      REQUIRE((ratio >= 0.74 && ratio <= 1.35));
      REQUIRE((plan.jitter_steps == 0 || plan.jitter_steps == 4));
      REQUIRE(plan.filter == ResizeFilter::bicubic);
    }
    CHECK(mean(plans, area) == Approx(expected_area(expected.area_min, expected.area_max)).margin(0.008));
    CHECK(share(plans, [](const CropPlan& p) { return p.flip; }) == Approx(0.5).margin(0.03));
    CHECK(share(plans, [](const CropPlan& p) { return p.jitter_steps == 4; }) == Approx(0.8).margin(0.03));
    CHECK(share(plans, [](const CropPlan& p) { return p.grey; }) == Approx(0.2).margin(0.03));
    CHECK(share(plans, [](const CropPlan& p) { return p.blur_radius > 0; }) == Approx(expected.blur).margin(0.03));
    CHECK(share(plans, [](const CropPlan& p) { return p.solarize; }) == Approx(expected.solarize).margin(0.03));
  }
}

TEST_CASE("jitter and blur draw from their ranges, the jitter in every order") {
  const std::vector<CropPlan> plans = draw(0);
  std::map<std::array<JitterStep, 4>, int> orders;
  double hue_low = 1, hue_high = -1, blur_low = 9, blur_high = 0;
  int jittered = 0;
  for (const CropPlan& plan : plans) {
    blur_low = std::min<double>(blur_low, plan.blur_radius);
    blur_high = std::max<double>(blur_high, plan.blur_radius);
    if (plan.jitter_steps == 0) continue;
    ++jittered;
    ++orders[plan.jitter_order];
    REQUIRE((plan.brightness >= 0.6F && plan.brightness <= 1.4F));
    REQUIRE((plan.contrast >= 0.6F && plan.contrast <= 1.4F));
    REQUIRE((plan.saturation >= 0.8F && plan.saturation <= 1.2F));
    hue_low = std::min(hue_low, plan.hue);
    hue_high = std::max(hue_high, plan.hue);
  }
  CHECK(orders.size() == 24);
  for (const auto& [order, count] : orders) CHECK(count == Approx(jittered / 24.0).margin(60));
  CHECK(hue_low == Approx(-0.1).margin(0.002));
  CHECK(hue_high == Approx(0.1).margin(0.002));
  CHECK(blur_low == Approx(0.1).margin(0.02));
  CHECK(blur_high == Approx(2.0).margin(0.02));
  CHECK(mean(plans, [](const CropPlan& p) { return p.blur_radius; }) == Approx(1.05).margin(0.05));
}

TEST_CASE("a plan depends on seed, epoch, sample and view, and on nothing else") {
  const MultiCropOptions options;
  const auto key = [&](int view, std::uint64_t seed, std::uint64_t epoch, std::uint64_t sample) {
    const CropPlan p = plan_crop(375, 500, view, options, seed, epoch, sample);
    return std::array<double, 5>{double(p.top), double(p.left), double(p.height), double(p.width), p.blur_radius};
  };
  CHECK(key(0, 1, 2, 3) == key(0, 1, 2, 3));
  const std::set<std::array<double, 5>> different = {key(0, 1, 2, 3), key(1, 1, 2, 3), key(0, 2, 2, 3), key(0, 1, 3, 3),
                                                     key(0, 1, 2, 4)};
  CHECK(different.size() == 5);
}

TEST_CASE("where no box fits, the middle with the nearest allowed ratio is taken") {
  MultiCropOptions options;
  options.global_scale_min = options.global_scale_max = 1.0;
  for (const CropPlan& plan : draw(0, options, 100, 1000)) {
    REQUIRE(plan.height == 100);
    REQUIRE(plan.width == 133);
    REQUIRE(plan.left == (1000 - 133) / 2);
    REQUIRE(plan.top == 0);
  }
  for (const CropPlan& plan : draw(0, options, 1000, 90)) {
    REQUIRE(plan.height == 120);
    REQUIRE(plan.width == 90);
    REQUIRE(plan.top == 440);
  }
  const CropPlan single = plan_crop(1, 1, 4, {}, 1, 1, 1);
  CHECK(single.height == 1);
  CHECK(single.width == 1);
}

TEST_CASE("evaluation resizes the short side and takes the middle") {
  const CropPlan plan = plan_center_crop(375, 500, 256, 224, ResizeFilter::bicubic);
  CHECK(plan.resized_height == 256);
  CHECK(plan.resized_width == 341);
  CHECK(plan.window_top == 16);
  CHECK(plan.window_left == 58);  // 58.5 to even
  CHECK(plan.output_height == 224);
  CHECK_FALSE(plan.flip);
  const CropPlan upright = plan_short_side(500, 375, 480, ResizeFilter::bilinear);
  CHECK(upright.resized_width == 480);
  CHECK(upright.resized_height == 640);
  CHECK_THROWS_AS(plan_center_crop(375, 500, 200, 224, ResizeFilter::bicubic), Error);
  // A line whose long side would have four billion pixels: still a window in the middle.
  for (const auto& [height, width] : {std::pair{1, 16'000'000}, {16'000'000, 1}}) {
    const CropPlan line = plan_center_crop(height, width, 256, 224, ResizeFilter::bicubic);
    CHECK(std::min(line.resized_height, line.resized_width) == 256);
    const auto middle = [](int window, int resized) { return std::abs(window + 112 - resized / 2) <= 1; };
    CHECK(middle(line.window_top, line.resized_height));
    CHECK(middle(line.window_left, line.resized_width));
  }
}

TEST_CASE("crop options that make no sense are errors") {
  const auto bad = [](auto&& change) {
    MultiCropOptions options;
    change(options);
    CHECK_THROWS_AS(check_options(options), Error);
  };
  CHECK_NOTHROW(check_options({}));
  bad([](MultiCropOptions& o) { o.global_crops = 0; });
  bad([](MultiCropOptions& o) { o.local_crops = -1; });
  bad([](MultiCropOptions& o) { o.global_scale_min = 0; });
  bad([](MultiCropOptions& o) { o.local_scale_max = 1.5; });
  bad([](MultiCropOptions& o) { o.flip_probability = std::nan(""); });
  bad([](MultiCropOptions& o) { o.hue = 0.6; });
  bad([](MultiCropOptions& o) { o.blur_radius_min = 3; });
}
