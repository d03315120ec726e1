#pragma once

#include "engine/random.h"
#include "kernels/augment/augment.h"

#include <cstdint>

namespace dino {

/// The multi-crop augmentation of DINO (arXiv 2104.14294, appendix; DataAugmentationDINO in main_dino.py). The defaults
/// are the official ones.
struct MultiCropOptions {
  int global_crops = 2;
  int global_size_px = 224;
  double global_scale_min = 0.4, global_scale_max = 1.0;  // share of the picture's area
  int local_crops = 8;                                    // may be 0
  int local_size_px = 96;
  double local_scale_min = 0.05, local_scale_max = 0.4;
  double ratio_min = 3.0 / 4.0, ratio_max = 4.0 / 3.0;  // width / height
  ResizeFilter filter = ResizeFilter::bicubic;

  double flip_probability = 0.5;
  double jitter_probability = 0.8;
  double brightness = 0.4, contrast = 0.4, saturation = 0.2;  // factors from [1 - x, 1 + x], not below 0
  double hue = 0.1;                                           // turns from [-x, x]
  double grey_probability = 0.2;
  double blur_probability_global_1 = 1.0, blur_probability_global_2 = 0.1, blur_probability_local = 0.5;
  double blur_radius_min = 0.1, blur_radius_max = 2.0;
  double solarize_probability_global_2 = 0.2;  // global 2 stands for every global crop but the first

  int views() const { return global_crops + local_crops; }
};

/// Throws Error, naming the option, where a number makes no sense.
void check_options(const MultiCropOptions& options);

/// A random part of the picture as torchvision's RandomResizedCrop draws it: area uniform in scale, logarithm of the
/// aspect ratio uniform, ten tries, then the largest central part with an allowed ratio.
CropPlan plan_random_resized_crop(int image_height, int image_width, int size_px, double scale_min, double scale_max,
                                  double ratio_min, double ratio_max, ResizeFilter filter, Random& random);

/// Crop `view` of picture `sample` in `epoch`: global crops come first. Depends on the arguments only.
CropPlan plan_crop(int image_height, int image_width, int view, const MultiCropOptions& options, std::uint64_t seed,
                   std::uint64_t epoch, std::uint64_t sample);

/// For training a linear classifier: random resized crop (bilinear, scale 0.08 to 1) and flip.
CropPlan plan_linear_probe_crop(int image_height, int image_width, int size_px, std::uint64_t seed, std::uint64_t epoch,
                                std::uint64_t sample);

/// The whole picture resized so that its short side has this length (the long side is rounded down).
CropPlan plan_short_side(int image_height, int image_width, int short_side_px, ResizeFilter filter);

/// For evaluation: short side to `short_side_px`, then the centre, size_px x size_px.
CropPlan plan_center_crop(int image_height, int image_width, int short_side_px, int size_px, ResizeFilter filter);

}  // namespace dino
