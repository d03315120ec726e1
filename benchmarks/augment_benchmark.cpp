// Crops of each kind from a picture of ImageNet's usual size; on the CPU on one thread.
#include "data/crop_plan.h"
#include "data/image.h"
#include "kernels/augment/augment.h"

#include "benchmarks/benchmark.h"

#include <fmt/format.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

namespace dino::bench {
namespace {

constexpr int kHeight = 375, kWidth = 500;
constexpr int kPlans = 16;

struct Crops {
  Image picture;
  std::vector<CropPlan> plans;
  std::vector<std::uint8_t> output;
};

std::string size_text(std::int64_t side) { return fmt::format("{} of {} x {} px", kPlans, side, side); }

/// One after the other.
Prepared prepare_on_cpu(Bench& bench, const std::shared_ptr<Crops>& crops, std::int64_t side) {
  crops->output.resize(static_cast<std::size_t>(side * side * 3) * kPlans);
  const auto each = [crops, side](const auto& run) {
    for (std::size_t i = 0; i < crops->plans.size(); ++i) {
      std::uint8_t* to = crops->output.data() + i * static_cast<std::size_t>(side * side * 3);
      run(AugmentCrop{crops->picture.array(), crops->plans[i], Array(to, {side, side, 3})});
    }
  };
  Stream& stream = bench.stream();
  const Array all(crops->output.data(), {static_cast<std::int64_t>(crops->output.size())});
  return {.size = size_text(side),
          .run = [=, &stream] { each([&](const AugmentCrop& args) { augment_crop(args, stream); }); },
          .references = {{"oracle", [=] { each([](const AugmentCrop& args) { reference::augment_crop(args); }); }}},
          .outputs = {all}};
}

/// All at once, from memory of the device.
Prepared prepare_on_gpu(Bench& bench, const Crops& crops, std::int64_t side) {
  const std::span<const std::uint8_t> pixels = bench.table(crops.picture.rgb);
  const AugmentCrops args{.images = ConstArray(pixels.data(), {static_cast<std::int64_t>(pixels.size())}),
                          .pictures = bench.table(std::vector{CropPicture{0, kHeight, kWidth}}),
                          .plans = bench.table(crops.plans),
                          .output = bench.zeros(DType::uint8, {kPlans, side, side, 3})};
  Stream& stream = bench.stream();
  return {.size = size_text(side), .run = [=, &stream] { augment_crops(args, stream); }, .outputs = {args.output}};
}

/// The default plans of a view for so many pictures.
Prepared prepare_view(Bench& bench, int view) {
  const auto crops = std::make_shared<Crops>();
  crops->picture.resize(kHeight, kWidth);
  Random random(1, RandomStream::test);
  for (std::size_t i = 0; i < crops->picture.rgb.size(); ++i)
    crops->picture.rgb[i] = static_cast<std::uint8_t>(i / 97 + random.below(32));
  for (int sample = 0; sample < kPlans; ++sample)
    crops->plans.push_back(plan_crop(kHeight, kWidth, view, {}, 1, 0, static_cast<std::uint64_t>(sample)));
  const std::int64_t side = crops->plans[0].output_height;
  Prepared prepared = bench.on_cpu() ? prepare_on_cpu(bench, crops, side) : prepare_on_gpu(bench, *crops, side);
  prepared.items = static_cast<double>(kPlans);
  prepared.item = "crops";
  return prepared;
}

Prepared prepare_global_1(Bench& bench) { return prepare_view(bench, 0); }
Prepared prepare_global_2(Bench& bench) { return prepare_view(bench, 1); }
Prepared prepare_local(Bench& bench) { return prepare_view(bench, 2); }

constexpr bool kHasRoofline = false;  // its many small steps are not counted
const Registered kGlobal1{{"augment", "global 1", prepare_global_1, {DType::uint8}, false, kHasRoofline}};
const Registered kGlobal2{{"augment", "global 2", prepare_global_2, {DType::uint8}, false, kHasRoofline}};
const Registered kLocal{{"augment", "local", prepare_local, {DType::uint8}, false, kHasRoofline}};

}  // namespace
}  // namespace dino::bench
