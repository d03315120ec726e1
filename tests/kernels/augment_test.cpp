#include "kernels/augment/augment.h"
#include "data/crop_plan.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/paths.h"
#include "tests/support/host_array.h"

#include <nlohmann/json.hpp>

#include <fstream>

using namespace dino;
using namespace dino::test;

namespace {

CropPlan whole(const ConstArray& image) {
  CropPlan plan;
  plan.height = plan.resized_height = plan.output_height = static_cast<int>(image.extent(0));
  plan.width = plan.resized_width = plan.output_width = static_cast<int>(image.extent(1));
  return plan;
}

void add_step(CropPlan& plan, JitterStep step, double factor) {
  plan.jitter_order[static_cast<std::size_t>(plan.jitter_steps++)] = step;
  switch (step) {
    case JitterStep::brightness: plan.brightness = static_cast<float>(factor); break;
    case JitterStep::contrast: plan.contrast = static_cast<float>(factor); break;
    case JitterStep::saturation: plan.saturation = static_cast<float>(factor); break;
    case JitterStep::hue: plan.hue = factor; break;
  }
}

ResizeFilter filter_of(const nlohmann::json& entry) {
  return entry.at("interpolation") == "bilinear" ? ResizeFilter::bilinear : ResizeFilter::bicubic;
}

/// The plan that a recorded operation stands for.
CropPlan plan_of(const nlohmann::json& entry, const ConstArray& image) {
  const std::string op = entry.at("op");
  const int height = static_cast<int>(image.extent(0));
  const int width = static_cast<int>(image.extent(1));
  CropPlan plan = whole(image);
  if (op == "resized_crop" || op == "pipeline") {
    plan.top = entry.at("top");
    plan.left = entry.at("left");
    plan.height = entry.at("height");
    plan.width = entry.at("width");
    plan.resized_height = plan.resized_width = plan.output_height = plan.output_width = entry.at("size");
    plan.filter = filter_of(entry);
    if (op == "pipeline") {
      static const char* const kFactors[] = {"brightness", "contrast", "saturation", "hue"};
      if (entry.contains("jitter_order") && !entry.at("jitter_order").is_null()) {
        for (const int step : entry.at("jitter_order").get<std::vector<int>>()) {
          add_step(plan, static_cast<JitterStep>(step), entry.at(kFactors[step]));
        }
      }
      plan.flip = entry.at("flip");
      plan.grey = entry.at("grayscale");
      plan.solarize = entry.at("solarize");
      if (!entry.at("blur_radius").is_null()) plan.blur_radius = entry.at("blur_radius");
    }
  } else if (op == "eval_resize_center_crop") {
    plan = plan_center_crop(height, width, entry.at("short_side"), entry.at("size"), filter_of(entry));
  } else if (op == "attention_resize") {
    plan = plan_short_side(height, width, entry.at("short_side"), filter_of(entry));
  } else if (op == "horizontal_flip") {
    plan.flip = true;
  } else if (op == "brightness" || op == "contrast" || op == "saturation" || op == "hue") {
    const JitterStep step = op == "brightness"   ? JitterStep::brightness
                            : op == "contrast"   ? JitterStep::contrast
                            : op == "saturation" ? JitterStep::saturation
                                                 : JitterStep::hue;
    add_step(plan, step, entry.at("factor"));
  } else if (op == "grayscale") {
    plan.grey = true;
  } else if (op == "gaussian_blur") {
    plan.blur_radius = entry.at("radius");
  } else if (op == "solarize") {
    plan.solarize = true;
  } else {
    FAIL("unknown operation " << op);
  }
  return plan;
}

/// Number of values that differ.
std::int64_t differing(const ConstArray& a, const ConstArray& b) {
  REQUIRE(a.shape() == b.shape());
  REQUIRE(a.size() > 0);
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < a.size(); ++i) count += a.as<std::uint8_t>()[i] != b.as<std::uint8_t>()[i];
  return count;
}

HostArray random_image(int height, int width, std::uint64_t seed, int misalign = 0) {
  HostArray image(DType::uint8, {height, width, 3}, misalign);
  Random random(seed, RandomStream::test);
  // Smooth areas, noise and the extreme values.
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const std::uint32_t kind = ((y / 8) + (x / 8)) % 4;
      for (int c = 0; c < 3; ++c) {
        const std::uint32_t noise = random.below(256);
        image.as<std::uint8_t>()[(y * width + x) * 3 + c] =
            static_cast<std::uint8_t>(kind == 0   ? noise
                                      : kind == 1 ? (noise < 128 ? 0 : 255)
                                      : kind == 2 ? (x * 3 + y * c) & 255
                                                  : 90 + noise % 8);
      }
    }
  }
  return image;
}

void check_equals_oracle(const ConstArray& image, const CropPlan& plan, Stream& stream, int misalign = 0) {
  const Shape shape{plan.output_height, plan.output_width, 3};
  HostArray got(DType::uint8, shape, misalign);
  HostArray expected(DType::uint8, shape);
  augment_crop({.image = image, .plan = plan, .output = got}, stream);
  reference::augment_crop({.image = image, .plan = plan, .output = expected});
  INFO("box " << plan.height << "x" << plan.width << " to " << plan.output_height << "x" << plan.output_width
              << " flip " << plan.flip << " steps " << plan.jitter_steps << " blur " << plan.blur_radius);
  CHECK(differing(got, expected) == 0);
}

}  // namespace

TEST_CASE("augment: golden: every recorded operation of Pillow, to the last bit") {
  const auto stream = make_cpu_stream();
  std::ifstream json_file(golden_dir() / "augment.json");
  REQUIRE(json_file.good());
  const nlohmann::json entries = nlohmann::json::parse(json_file);
  const SafetensorsFile file = SafetensorsFile::read(golden_dir() / "augment.safetensors");
  REQUIRE(entries.size() > 0);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const nlohmann::json& entry = entries[i];
    const std::string op = entry.at("op");
    const bool from_input =
        op == "resized_crop" || op == "pipeline" || op.starts_with("eval_") || op.starts_with("attention_");
    const ConstArray image = file[from_input ? "input" : "base"];
    const CropPlan plan = plan_of(entry, image);
    const ConstArray expected = file["case" + std::to_string(i) + ".output"];
    INFO("case " << i << ": " << entry.dump());
    HostArray got(DType::uint8, {plan.output_height, plan.output_width, 3});
    augment_crop({.image = image, .plan = plan, .output = got}, *stream);
    CHECK(differing(got, expected) == 0);
    HostArray oracle(DType::uint8, {plan.output_height, plan.output_width, 3});
    reference::augment_crop({.image = image, .plan = plan, .output = oracle});
    CHECK(differing(oracle, expected) == 0);
  }
}

TEST_CASE("augment agrees with the oracle to the last bit on random crops") {
  const auto stream = make_cpu_stream();
  MultiCropOptions options;
  options.global_size_px = 75;
  options.local_size_px = 32;
  options.blur_probability_global_2 = 0.5;
  options.solarize_probability_global_2 = 0.5;
  const std::pair<int, int> sizes[] = {{1, 1}, {2, 3}, {17, 5}, {33, 64}, {120, 97}, {150, 200}};
  for (const auto& [height, width] : sizes) {
    const HostArray image = random_image(height, width, 3, 1);
    for (int view = 0; view < options.views(); ++view) {
      for (std::uint64_t sample = 0; sample < 3; ++sample) {
        check_equals_oracle(image, plan_crop(height, width, view, options, 7, 1, sample), *stream, 1);
      }
    }
  }
}

TEST_CASE("augment agrees with the oracle at DINO's sizes") {
  const auto stream = make_cpu_stream();
  const HostArray image = random_image(375, 500, 4);
  const MultiCropOptions options;
  for (const int view : {0, 1, 2, 3}) check_equals_oracle(image, plan_crop(375, 500, view, options, 1, 0, 5), *stream);
}

TEST_CASE("augment agrees with the oracle where a direction keeps its size, shrinks much or grows much") {
  const auto stream = make_cpu_stream();
  const HostArray image = random_image(90, 130, 5);
  for (const ResizeFilter filter : {ResizeFilter::bilinear, ResizeFilter::bicubic}) {
    for (const int width : {1, 2, 9, 64, 130, 400}) {
      for (const int height : {1, 3, 90, 211}) {
        CropPlan plan = whole(image);
        plan.filter = filter;
        plan.resized_width = plan.output_width = width;
        plan.resized_height = plan.output_height = height;
        check_equals_oracle(image, plan, *stream);
        plan.flip = true;
        plan.window_left = width / 3;
        plan.output_width = width - width / 3;
        plan.window_top = height / 2;
        plan.output_height = height - height / 2;
        check_equals_oracle(image, plan, *stream);
      }
    }
  }
}

TEST_CASE("augment blurs as the oracle does for every radius") {
  const auto stream = make_cpu_stream();
  const auto sizes = {std::pair{40, 53}, std::pair{3, 7}, std::pair{1, 1}, std::pair{1, 30}, std::pair{30, 1}};
  for (const auto& [height, width] : sizes) {
    const HostArray image = random_image(height, width, 6);
    for (const float radius : {0.01F, 0.1F, 0.5F, 1.0F, 1.41F, 1.42F, 2.0F, 3.3F, 9.0F, 30.0F, 60.0F}) {
      CropPlan plan = whole(image);
      plan.blur_radius = radius;
      check_equals_oracle(image, plan, *stream);
    }
  }
}

TEST_CASE("augment changes colours as the oracle does, for all sorts of colours") {
  const auto stream = make_cpu_stream();
  // Every pair of chroma and value, in each of the six sectors of hue, with ties and with a middle value.
  std::vector<std::uint8_t> colours;
  for (int high = 0; high < 256; ++high) {
    for (int low = 0; low <= high; ++low) {
      const int middle = low + (high * 7 + low * 13) % (high - low + 1);
      const int values[3] = {high, low, (high + low) % 5 == 0 ? high : (high + low) % 5 == 1 ? low : middle};
      static const int kOrders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
      for (const auto& order : kOrders) {
        for (const int i : order) colours.push_back(static_cast<std::uint8_t>(values[i]));
      }
    }
  }
  const std::int64_t width = 6;
  const ConstArray image(colours.data(), {static_cast<std::int64_t>(colours.size()) / 3 / width, width, 3});
  for (const double hue : {0.0, 0.1, -0.1, 0.004, -0.5, 0.5, 0.0412, -0.0871}) {
    CropPlan plan = whole(image);
    add_step(plan, JitterStep::hue, hue);
    check_equals_oracle(image, plan, *stream);
  }
  for (const double factor : {0.0, 0.2, 0.6, 0.8, 1.0, 1.0000001, 1.2, 1.4, 3.0}) {
    for (const JitterStep step : {JitterStep::brightness, JitterStep::contrast, JitterStep::saturation}) {
      CropPlan plan = whole(image);
      add_step(plan, step, factor);
      check_equals_oracle(image, plan, *stream);
    }
  }
  CropPlan plan = whole(image);
  plan.grey = plan.solarize = true;
  check_equals_oracle(image, plan, *stream);
}

TEST_CASE("augment says what does not fit") {
  const auto stream = make_cpu_stream();
  const HostArray image = random_image(8, 9, 7);
  HostArray output(DType::uint8, {8, 9, 3});
  const auto run = [&](auto&& change) {
    CropPlan plan = whole(image);
    change(plan);
    augment_crop({.image = image, .plan = plan, .output = output}, *stream);
  };
  CHECK_NOTHROW(run([](CropPlan&) {}));
  CHECK_THROWS_AS(run([](CropPlan& plan) { plan.left = 1; }), Error);
  CHECK_THROWS_AS(run([](CropPlan& plan) { plan.height = 0; }), Error);
  CHECK_THROWS_AS(run([](CropPlan& plan) { plan.window_top = 1; }), Error);
  CHECK_THROWS_AS(run([](CropPlan& plan) { plan.output_height = 7; }), Error);
  CHECK_THROWS_AS(run([](CropPlan& plan) { plan.brightness = std::numeric_limits<float>::quiet_NaN(); }), Error);
  CHECK_THROWS_AS(run([](CropPlan& plan) { plan.blur_radius = -1; }), Error);
}
