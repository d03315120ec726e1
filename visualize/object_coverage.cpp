#include "visualize/object_coverage.h"

#include "kernels/common/error.h"

#include <cmath>

namespace dino {

ObjectCoverageMeter::ObjectCoverageMeter(int heads)
    : mass_on_object_(static_cast<std::size_t>(heads), 0.0), mask_iou_(static_cast<std::size_t>(heads), 0.0) {}

void ObjectCoverageMeter::add(std::span<const float> attention, std::span<const float> mask,
                              std::span<const float> object) {
  const std::size_t patches = object.size();
  const std::size_t heads = mass_on_object_.size();
  require(patches > 0 && attention.size() == heads * patches && mask.size() == heads * patches, "object_coverage",
          "attention and mask have {} and {} values; expected {} heads of {} patches", attention.size(), mask.size(),
          heads, patches);
  double area = 0;
  for (const float share : object) area += share;
  require(area > 0, "object_coverage", "the mask shows no object");

  for (std::size_t head = 0; head < heads; ++head) {
    double mass = 0;
    double on_object = 0;
    double kept = 0;
    double intersection = 0;
    for (std::size_t p = 0; p < patches; ++p) {
      const double a = attention[head * patches + p];
      const double m = mask[head * patches + p] > 0.5F ? 1.0 : 0.0;
      mass += a;
      on_object += a * object[p];
      kept += m;
      intersection += m * object[p];
    }
    require(std::isfinite(mass) && mass > 0, "object_coverage", "the attention of head {} sums to {}", head, mass);
    mass_on_object_[head] += on_object / mass;
    mask_iou_[head] += intersection / (kept + area - intersection);
  }
  object_share_ += area / static_cast<double>(patches);
  ++images_;
}

ObjectCoverage ObjectCoverageMeter::result() const {
  require(images_ > 0, "object_coverage", "no images were given");
  ObjectCoverage result{images_, object_share_ / static_cast<double>(images_), mass_on_object_, mask_iou_};
  for (double& share : result.mass_on_object) share /= static_cast<double>(images_);
  for (double& iou : result.mask_iou) iou /= static_cast<double>(images_);
  return result;
}

std::vector<float> patch_shares(std::span<const std::uint8_t> mask, int height, int width, int patch_px) {
  require(patch_px > 0 && height % patch_px == 0 && width % patch_px == 0 &&
              mask.size() == static_cast<std::size_t>(height) * static_cast<std::size_t>(width),
          "object_coverage", "a mask of {}×{} pixels does not divide into patches of {}", height, width, patch_px);
  const int columns = width / patch_px;
  std::vector<float> shares(static_cast<std::size_t>(height / patch_px * columns), 0.0F);
  const float pixel_share = 1.0F / static_cast<float>(patch_px * patch_px);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      if (mask[static_cast<std::size_t>(y * width + x)] >= 128) {
        shares[static_cast<std::size_t>(y / patch_px * columns + x / patch_px)] += pixel_share;
      }
    }
  }
  return shares;
}

}  // namespace dino
