#include "kernels/augment/augment.h"
#include "data/crop_plan.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/every_stream.h"
#include "tests/support/host_array.h"
#include "tests/support/paths.h"

#include <nlohmann/json.hpp>

#include <cstring>
#include <fstream>
#include <span>

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

/// Test arrays can be reached by every device; other memory of the host need not be.
HostArray copy_of(const ConstArray& array) {
  HostArray result(array.dtype(), array.shape());
  std::memcpy(result.array().data(), array.data(), array.size_bytes());
  return result;
}

template <typename Entry>
HostArray table_of(const std::vector<Entry>& entries) {
  return copy_of(ConstArray(reinterpret_cast<const std::uint8_t*>(entries.data()),
                            {static_cast<std::int64_t>(entries.size() * sizeof(Entry))}));
}

template <typename Entry>
std::span<const Entry> entries_of(const HostArray& table) {
  return {reinterpret_cast<const Entry*>(table.as<std::uint8_t>()),
          static_cast<std::size_t>(table.size()) / sizeof(Entry)};
}

/// Pictures of several sizes in one buffer, not at multiples of anything, and plans for them.
struct CropBatch {
  HostArray images;
  std::vector<CropPicture> pictures;
  std::vector<CropPlan> plans{};

  static CropBatch of(const std::vector<std::pair<int, int>>& sizes) {
    std::int64_t bytes = 1;
    for (const auto& [height, width] : sizes) bytes += height * width * 3 + 1;
    CropBatch batch{HostArray(DType::uint8, {bytes}), {}};
    std::int64_t at = 1;
    for (const auto& [height, width] : sizes) {
      const HostArray image = random_image(height, width, 20 + batch.pictures.size());
      std::memcpy(batch.images.as<std::uint8_t>() + at, image.as<std::uint8_t>(),
                  static_cast<std::size_t>(image.size()));
      batch.pictures.push_back({at, height, width});
      at += image.size() + 1;
    }
    return batch;
  }

  /// Calls body(arguments), whose tables lie where devices reach them.
  template <typename Body>
  void with_crops(const Array& output, std::int64_t shared_bytes, const Body& body) const {
    const HostArray picture_table = table_of(pictures);
    const HostArray plan_table = table_of(plans);
    body(AugmentCrops{.images = images,
                      .pictures = entries_of<CropPicture>(picture_table),
                      .plans = entries_of<CropPlan>(plan_table),
                      .output = output,
                      .shared_bytes = shared_bytes});
  }
  void augment(const Array& output, Stream& stream, std::int64_t shared_bytes = 0) const {
    with_crops(output, shared_bytes, [&](const AugmentCrops& args) { augment_crops(args, stream); });
  }
};

/// Anything that a plan may say.
CropPlan random_plan(const CropPicture& picture, int height, int width, Random& random) {
  CropPlan plan;
  const auto direction = [&](int source, int output, int& begin, int& length, int& resized, int& window) {
    resized = output + static_cast<int>(random.chance(0.5) ? random.below(9) : 0);
    window = static_cast<int>(random.below(static_cast<std::uint32_t>(resized - output + 1)));
    length = resized <= source && random.chance(0.25)
                 ? resized
                 : 1 + static_cast<int>(random.below(static_cast<std::uint32_t>(source)));
    begin = static_cast<int>(random.below(static_cast<std::uint32_t>(source - length + 1)));
  };
  direction(picture.height, height, plan.top, plan.height, plan.resized_height, plan.window_top);
  direction(picture.width, width, plan.left, plan.width, plan.resized_width, plan.window_left);
  plan.output_height = height;
  plan.output_width = width;
  plan.filter = random.chance(0.5) ? ResizeFilter::bilinear : ResizeFilter::bicubic;
  plan.flip = random.chance(0.5);
  plan.jitter_steps = static_cast<int>(random.below(5));
  for (JitterStep& step : plan.jitter_order) step = static_cast<JitterStep>(random.below(4));  // also twice the same
  plan.brightness = static_cast<float>(random.uniform(0.0, 2.5));
  plan.contrast = static_cast<float>(random.uniform(0.0, 2.5));
  plan.saturation = static_cast<float>(random.uniform(0.0, 2.5));
  plan.hue = random.uniform(-0.5, 0.5);
  plan.grey = random.chance(0.2);
  if (random.chance(0.5)) {
    plan.blur_radius = static_cast<float>(random.chance(0.2) ? random.uniform(2.0, 30.0) : random.uniform(0.1, 2.0));
  }
  plan.solarize = random.chance(0.3);
  return plan;
}

void check_batch(const CropBatch& batch, int height, int width, Stream& stream, std::int64_t shared_bytes = 0,
                 int misalign = 0) {
  const Shape shape{static_cast<std::int64_t>(batch.plans.size()), height, width, 3};
  HostArray got(DType::uint8, shape, misalign);
  HostArray expected(DType::uint8, shape);
  batch.augment(got, stream, shared_bytes);
  batch.with_crops(expected, 0, [](const AugmentCrops& args) { reference::augment_crops(args); });
  const std::int64_t crop = shape.size() / shape[0];
  for (std::int64_t i = 0; i < shape[0]; ++i) {
    const CropPlan& plan = batch.plans[static_cast<std::size_t>(i)];
    INFO("crop " << i << " of " << height << "x" << width << " from " << plan.height << "x" << plan.width << " at "
                 << plan.top << ", " << plan.left << ", steps " << plan.jitter_steps << ", blur " << plan.blur_radius
                 << ", shared memory " << shared_bytes);
    CHECK(std::memcmp(got.as<std::uint8_t>() + i * crop, expected.as<std::uint8_t>() + i * crop,
                      static_cast<std::size_t>(crop)) == 0);
  }
}

}  // namespace

static void check_recordings(Stream& stream);
TEST_CASE("augment: golden: every recorded operation of Pillow, to the last bit", "[device]") {
  every_stream(check_recordings);
}
static void check_recordings(Stream& stream) {
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
    const HostArray image = copy_of(file[from_input ? "input" : "base"]);
    const CropPlan plan = plan_of(entry, image);
    const ConstArray expected = file["case" + std::to_string(i) + ".output"];
    INFO("case " << i << ": " << entry.dump());
    HostArray got(DType::uint8, {plan.output_height, plan.output_width, 3});
    augment_crop({.image = image, .plan = plan, .output = got}, stream);
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

static void check_colours(Stream& stream);
TEST_CASE("augment changes colours as the oracle does, for all sorts of colours", "[device]") {
  every_stream(check_colours);
}
static void check_colours(Stream& stream) {
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
  const std::int64_t width = 768;
  REQUIRE(static_cast<std::int64_t>(colours.size()) == 257 * width * 3);
  const HostArray image = copy_of(ConstArray(colours.data(), {257, width, 3}));
  // Thread by thread on the host takes its time.
  const bool few = stream.device() == Device::cuda;
  const std::vector<double> hues =
      few ? std::vector{0.1, -0.5, 0.0412} : std::vector{0.0, 0.1, -0.1, 0.004, -0.5, 0.5, 0.0412, -0.0871};
  for (const double hue : hues) {
    CropPlan plan = whole(image);
    add_step(plan, JitterStep::hue, hue);
    check_equals_oracle(image, plan, stream);
  }
  const std::vector<double> factors =
      few ? std::vector{0.0, 0.6, 1.4} : std::vector{0.0, 0.2, 0.6, 0.8, 1.0, 1.0000001, 1.2, 1.4, 3.0};
  for (const double factor : factors) {
    for (const JitterStep step : {JitterStep::brightness, JitterStep::contrast, JitterStep::saturation}) {
      CropPlan plan = whole(image);
      add_step(plan, step, factor);
      check_equals_oracle(image, plan, stream);
    }
  }
  CropPlan plan = whole(image);
  plan.grey = plan.solarize = true;
  check_equals_oracle(image, plan, stream);
}

static void check_random_batches(Stream& stream);
TEST_CASE("augment_crops agrees with the oracle to the last bit for anything that plans may say", "[device]") {
  every_stream(check_random_batches);
}
static void check_random_batches(Stream& stream) {
  CropBatch batch = CropBatch::of({{1, 1}, {2, 3}, {17, 5}, {33, 64}, {60, 47}, {48, 90}});
  Random random(11, RandomStream::test);
  const std::tuple<int, int, int> outputs[] = {{16, 16, 0}, {23, 23, 1}, {48, 48, 0},
                                               {1, 37, 3},  {31, 2, 0},  {33, 20, 1}};
  for (const auto& [height, width, misalign] : outputs) {
    batch.plans.clear();
    for (int view = 0; view < 3; ++view) {
      for (const CropPicture& picture : batch.pictures)
        batch.plans.push_back(random_plan(picture, height, width, random));
    }
    check_batch(batch, height, width, stream, 0, misalign);
  }
}

static void check_shared_memory(Stream& stream);
TEST_CASE("augment_crops gives the same crops with much and little shared memory", "[device]") {
  every_stream(check_shared_memory);
}
static void check_shared_memory(Stream& stream) {
  CropBatch batch = CropBatch::of({{90, 130}, {40, 31}, {7, 200}});
  Random random(12, RandomStream::test);
  for (int view = 0; view < 2; ++view) {
    for (const CropPicture& picture : batch.pictures) batch.plans.push_back(random_plan(picture, 24, 24, random));
  }
  // From weights computed on the way and one blurred line at a time, over tiles of one pixel and more, to the whole
  // crop at once, and with the crop in shared memory from 2.5 KB on.
  for (const std::int64_t bytes : {720, 800, 1000, 1500, 2400, 2500, 3000, 4500, 9000, 40000}) {
    check_batch(batch, 24, 24, stream, bytes);
  }
  if (stream.device() == Device::cuda) {
    HostArray output(DType::uint8, {6, 24, 24, 3});
    CHECK_THROWS_AS(batch.augment(output, stream, 500), Error);
  }
}

static void check_dino_batch(Stream& stream);
TEST_CASE("augment_crops agrees with the oracle on DINO's local crops, and on large reductions", "[device]") {
  every_stream(check_dino_batch);
}
static void check_dino_batch(Stream& stream) {
  CropBatch batch = CropBatch::of({{375, 500}});
  for (const std::uint64_t sample : {1, 2, 3}) batch.plans.push_back(plan_crop(375, 500, 2, {}, 1, 0, sample));
  check_batch(batch, 96, 96, stream);

  CropBatch large = CropBatch::of({{3, 1500}, {1100, 5}});
  Random random(13, RandomStream::test);
  for (const CropPicture& picture : large.pictures) {
    CropPlan plan = random_plan(picture, 16, 16, random);
    plan.top = plan.left = 0;
    plan.height = picture.height;
    plan.width = picture.width;
    large.plans.push_back(plan);
  }
  check_batch(large, 16, 16, stream);
}

static void check_blur(Stream& stream);
TEST_CASE("augment_crops blurs as the oracle does for every radius", "[device]") { every_stream(check_blur); }
static void check_blur(Stream& stream) {
  CropBatch batch = CropBatch::of({{26, 19}});
  for (const float radius : {0.01F, 0.1F, 0.5F, 1.0F, 1.41F, 1.42F, 2.0F, 3.3F, 9.0F, 30.0F, 60.0F}) {
    CropPlan plan;
    plan.height = plan.resized_height = plan.output_height = 26;
    plan.width = plan.resized_width = plan.output_width = 19;
    plan.blur_radius = radius;
    batch.plans.push_back(plan);
  }
  check_batch(batch, 26, 19, stream);
}

TEST_CASE("augment_crops says what does not fit") {
  const auto stream = make_cpu_stream();
  CropBatch batch = CropBatch::of({{8, 9}, {10, 7}});
  Random random(14, RandomStream::test);
  for (const CropPicture& picture : batch.pictures) batch.plans.push_back(random_plan(picture, 4, 5, random));
  HostArray output(DType::uint8, {2, 4, 5, 3});
  HostArray other(DType::uint8, {2, 4, 6, 3});
  CHECK_NOTHROW(batch.augment(output, *stream));
  CHECK_THROWS_AS(batch.augment(other, *stream), Error);
  CHECK_THROWS_AS(batch.augment(output, *stream, -1), Error);
  CropBatch beyond{batch.images.copy(), batch.pictures, batch.plans};
  beyond.pictures[1].offset += 2;
  CHECK_THROWS_AS(beyond.augment(output, *stream), Error);
  CropBatch outside{batch.images.copy(), batch.pictures, batch.plans};
  outside.plans[0].left = 9;
  CHECK_THROWS_AS(outside.augment(output, *stream), Error);
  batch.plans.pop_back();
  HostArray single(DType::uint8, {1, 4, 5, 3});
  CHECK_THROWS_AS(batch.augment(single, *stream), Error);  // no whole number of crops a picture
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
