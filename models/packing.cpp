#include "models/packing.h"

namespace dino {

CropPacker::CropPacker(Context& context, int patch_px, const PixelNormalization& normalization)
    : context_(context), patch_px_(patch_px), normalization_(normalization) {
  require(patch_px >= 1, "packing", "the patch size must be at least 1; got {}", patch_px);
}

PackedCrops CropPacker::pack(const std::vector<CropGroup>& groups) {
  require(!groups.empty(), "packing", "no crops were given");
  PackedCrops packed;
  packed.normalization = normalization_;
  std::vector<GroupShape> shapes;
  for (const CropGroup& group : groups) {
    const Tensor& pixels = group.pixels;
    const bool bytes = pixels.dtype() == DType::uint8;
    require(static_cast<bool>(pixels) && (bytes || pixels.dtype() == DType::float32) && pixels.shape().rank() == 4 &&
                pixels.extent(bytes ? 3 : 1) == 3,
            "packing", "got pixels {} {}, expected uint8 (n, H, W, 3) or float32 (n, 3, H, W)", name_of(pixels.dtype()),
            pixels.shape().to_string());
    shapes.push_back({pixels.extent(0), pixels.extent(bytes ? 1 : 2), pixels.extent(bytes ? 2 : 3)});
    packed.pixels.push_back(pixels);
  }
  auto& plan = plans_[shapes];
  if (!plan) plan = make_plan(shapes);
  packed.plan = plan;
  return packed;
}

std::shared_ptr<const PackingPlan> CropPacker::make_plan(const std::vector<GroupShape>& shapes) const {
  auto plan = std::make_shared<PackingPlan>();
  std::vector<std::int32_t> lengths;
  for (const GroupShape& shape : shapes) {
    require(shape.count >= 1 && shape.height_px >= patch_px_ && shape.width_px >= patch_px_ &&
                shape.height_px % patch_px_ == 0 && shape.width_px % patch_px_ == 0,
            "packing", "crops must have sides that are multiples of the patch size {}; got {} crops of {}×{} pixels",
            patch_px_, shape.count, shape.height_px, shape.width_px);
    const std::int64_t rows = shape.height_px / patch_px_;
    const std::int64_t columns = shape.width_px / patch_px_;
    plan->groups.push_back({shape.count, static_cast<int>(rows), static_cast<int>(columns), plan->patches});
    plan->patches += shape.count * rows * columns;
    // Offsets of tokens are 32 bits wide.
    require(plan->patches <= (std::int64_t{1} << 30), "packing",
            "{} patches are too many for one pass; try smaller batches", plan->patches);
    lengths.insert(lengths.end(), static_cast<std::size_t>(shape.count), static_cast<std::int32_t>(1 + rows * columns));
  }
  plan->sequences = make_sequences(context_, lengths);
  plan->cls_sequences = make_sequences(context_, std::vector<std::int32_t>(lengths.size(), 1));
  return plan;
}

}  // namespace dino
