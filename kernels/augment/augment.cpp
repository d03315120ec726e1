#include "kernels/augment/augment.h"

#include <cmath>

namespace dino {

void check_crop(const AugmentCrop& args) {
  const CropPlan& plan = args.plan;
  require(
      args.image && args.image.shape().rank() == 3 && args.image.extent(2) == 3 && args.image.dtype() == DType::uint8,
      "augment", "the picture must be (H, W, 3) uint8; got {} {}", args.image.shape().to_string(),
      name_of(args.image.dtype()));
  require_array(args.output, DType::uint8, {plan.output_height, plan.output_width, 3}, "augment", "output");
  require(plan.height > 0 && plan.width > 0 && plan.top >= 0 && plan.left >= 0 &&
              plan.top + std::int64_t{plan.height} <= args.image.extent(0) &&
              plan.left + std::int64_t{plan.width} <= args.image.extent(1),
          "augment", "the box must lie in the picture; got {} x {} at ({}, {}) of {} x {}", plan.height, plan.width,
          plan.top, plan.left, args.image.extent(0), args.image.extent(1));
  require(plan.output_height > 0 && plan.output_width > 0 && plan.window_top >= 0 && plan.window_left >= 0 &&
              plan.window_top + std::int64_t{plan.output_height} <= plan.resized_height &&
              plan.window_left + std::int64_t{plan.output_width} <= plan.resized_width,
          "augment", "the window must lie in the resized box; got {} x {} at ({}, {}) of {} x {}", plan.output_height,
          plan.output_width, plan.window_top, plan.window_left, plan.resized_height, plan.resized_width);
  require(plan.jitter_steps >= 0 && plan.jitter_steps <= 4, "augment", "jitter has 0 to 4 steps; got {}",
          plan.jitter_steps);
  require(plan.brightness >= 0 && plan.contrast >= 0 && plan.saturation >= 0 && std::abs(plan.hue) <= 0.5, "augment",
          "jitter factors must not be negative and hue within [-0.5, 0.5]; got {}, {}, {} and {}", plan.brightness,
          plan.contrast, plan.saturation, plan.hue);
  require(plan.blur_radius >= 0 && plan.blur_radius <= 60, "augment", "the blur radius must lie in [0, 60]; got {}",
          plan.blur_radius);
}

void check_crops(const AugmentCrops& args) {
  require(args.images.dtype() == DType::uint8 && args.images.shape().rank() == 1, "augment",
          "the pictures must be (bytes) uint8; got {} {}", args.images.shape().to_string(),
          name_of(args.images.dtype()));
  const auto crops = static_cast<std::int64_t>(args.plans.size());
  require(args.output.dtype() == DType::uint8 && args.output.shape().rank() == 4 && args.output.extent(0) == crops &&
              args.output.extent(1) > 0 && args.output.extent(2) > 0 && args.output.extent(3) == 3 &&
              (args.output || crops == 0),
          "augment", "the output must be (n, H, W, 3) uint8; got {} {} for {} plans", args.output.shape().to_string(),
          name_of(args.output.dtype()), crops);
  require(crops == 0 || (!args.pictures.empty() && args.plans.size() % args.pictures.size() == 0), "augment",
          "every picture has the same number of crops; got {} plans for {} pictures", crops, args.pictures.size());
  require(args.shared_bytes >= 0, "augment", "shared_bytes must not be negative; got {}", args.shared_bytes);
}

AugmentCrop single_crop(const AugmentCrops& args, std::int64_t i) {
  const auto crop = static_cast<std::size_t>(i);
  const CropPicture& picture = args.pictures[crop % args.pictures.size()];
  const Shape shape{args.output.extent(1), args.output.extent(2), 3};
  return {.image = {args.images.as<std::uint8_t>() + picture.offset, {picture.height, picture.width, 3}},
          .plan = args.plans[crop],
          .output = {args.output.as<std::uint8_t>() + i * shape.size(), shape}};
}

void check_crop_tables(const AugmentCrops& args) {
  check_crops(args);
  for (std::size_t i = 0; i < args.pictures.size(); ++i) {
    const auto& [offset, height, width] = args.pictures[i];
    require(offset >= 0 && height > 0 && width > 0 && offset + std::int64_t{height} * width * 3 <= args.images.size(),
            "augment", "picture {} must lie in the buffer; got {} x {} at {} of {} bytes", i, height, width, offset,
            args.images.size());
  }
  for (std::int64_t i = 0; i < args.output.extent(0); ++i) check_crop(single_crop(args, i));
}

}  // namespace dino
