#include "train/training_data.h"

#include "data/upload.h"

namespace dino {
namespace {

MultiCropOptions crop_options(const TrainConfig& c) {
  MultiCropOptions options;
  options.global_size_px = c.global_crops_size;
  options.global_scale_min = c.global_crops_scale[0];
  options.global_scale_max = c.global_crops_scale[1];
  options.local_crops = c.local_crops_number;
  options.local_size_px = c.local_crops_size;
  options.local_scale_min = c.local_crops_scale[0];
  options.local_scale_max = c.local_crops_scale[1];
  options.flip_probability = c.flip_prob;
  options.jitter_probability = c.jitter_prob;
  options.brightness = c.jitter_brightness;
  options.contrast = c.jitter_contrast;
  options.saturation = c.jitter_saturation;
  options.hue = c.jitter_hue;
  options.grey_probability = c.gray_prob;
  options.blur_probability_global_1 = c.blur_prob_global1;
  options.blur_probability_global_2 = c.blur_prob_global2;
  options.blur_probability_local = c.blur_prob_local;
  options.blur_radius_min = c.blur_radius[0];
  options.blur_radius_max = c.blur_radius[1];
  options.solarize_probability_global_2 = c.solarize_prob_global2;
  return options;
}

}  // namespace

ViewSet training_views(const TrainConfig& config) {
  return multi_crop_views(crop_options(config), static_cast<std::uint64_t>(config.seed));
}

AugmentOn augment_on(const TrainConfig& config, Device device) {
  if (config.augment == "auto") return device == Device::cuda ? AugmentOn::device : AugmentOn::host;
  return config.augment == "device" ? AugmentOn::device : AugmentOn::host;
}

TrainingCrops upload_training_crops(Context& context, const Batch& batch) {
  TrainingCrops crops;
  crops.groups = upload_crops(context, batch);
  for (const std::int64_t sample : batch.samples) crops.samples.push_back(static_cast<std::uint64_t>(sample));
  return crops;
}

}  // namespace dino
