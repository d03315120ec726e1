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

}  // namespace dino
