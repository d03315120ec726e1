#include "kernels/augment/augment.h"
#include "selftest/kernels/kernel_check.h"

namespace dino {
namespace {

/// A crop in which every step of the augmentation has something to do.
CropPlan busy_plan(int side_px) {
  CropPlan plan;
  plan.top = 3;
  plan.left = 5;
  plan.height = 40;
  plan.width = 51;
  plan.resized_height = plan.resized_width = plan.output_height = plan.output_width = side_px;
  plan.flip = true;
  plan.jitter_steps = 4;
  plan.brightness = 1.2F;
  plan.contrast = 0.8F;
  plan.saturation = 1.1F;
  plan.hue = 0.05;
  plan.blur_radius = 0.7F;
  plan.solarize = true;
  return plan;
}

void augment_crop_check(KernelBench& b) {
  for (const int side : {17, 96}) {
    const Value image = b.bytes({48, 64, 3}), crop = b.result(DType::uint8, {side, side, 3});
    b.run([&](At at) { return AugmentCrop{.image = at(image), .plan = busy_plan(side), .output = at(crop)}; },
          augment_crop, reference::augment_crop, {{"crop", crop, 0}});
  }
}

void augment_crops_check(KernelBench& b) {
  const std::int64_t bytes = 48 * 64 * 3;
  CropPlan grey = busy_plan(32);
  grey.grey = true;
  grey.filter = ResizeFilter::bilinear;
  const auto pictures = b.table(std::vector<CropPicture>{{0, 48, 64}, {bytes, 48, 64}});
  const auto plans = b.table(std::vector<CropPlan>{busy_plan(32), grey, grey, busy_plan(32)});
  const Value images = b.bytes({2 * bytes}), crops = b.result(DType::uint8, {4, 32, 32, 3});
  b.run(
      [&](At at) {
        return AugmentCrops{.images = at(images), .pictures = at(pictures), .plans = at(plans), .output = at(crops)};
      },
      augment_crops, reference::augment_crops, {{"crops", crops, 0}});
}

}  // namespace

KernelChecks augment_checks() {
  static constexpr KernelCheck kChecks[] = {
      {"augment_crop", false, augment_crop_check},
      {"augment_crops", false, augment_crops_check},
  };
  return kChecks;
}

}  // namespace dino
