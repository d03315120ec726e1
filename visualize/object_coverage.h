#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace dino {

/// How well attention covers objects whose masks are known, averaged over images. "Share" is a part of one: an object
/// that fills a quarter of the picture has the share 0.25, and attention that pays it no special regard puts 0.25 of
/// its mass on it.
struct ObjectCoverage {
  std::int64_t images = 0;
  double object_share = 0;             // of the picture's area, mean over images
  std::vector<double> mass_on_object;  // per head: share of the attention mass on the object, mean over images
  std::vector<double> mask_iou;  // per head: intersection over union of threshold mask and object, mean over images
};

/// Adds up ObjectCoverage image by image.
class ObjectCoverageMeter {
 public:
  explicit ObjectCoverageMeter(int heads);

  /// `attention` and `mask` are (H, rows, columns): the attention to each patch, and 1 for the patches that a threshold
  /// mask keeps. `object` is (rows, columns): the share of each patch's area that the object fills. Images without an
  /// object and attention that is not finite or sums to zero are errors.
  void add(std::span<const float> attention, std::span<const float> mask, std::span<const float> object);

  ObjectCoverage result() const;

 private:
  std::int64_t images_ = 0;
  double object_share_ = 0;
  std::vector<double> mass_on_object_;
  std::vector<double> mask_iou_;
};

/// Share of each patch's area that the object fills: an 8-bit mask (height, width), at least 128 is object, whose sides
/// are multiples of the patch size, to (height / patch_px, width / patch_px).
std::vector<float> patch_shares(std::span<const std::uint8_t> mask, int height, int width, int patch_px);

}  // namespace dino
