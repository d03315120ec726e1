#include "visualize/attention.h"

#include "data/crop_plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace dino {
namespace {

constexpr int kMaxPixels = 64'000'000;  // a million patches of 8×8

std::span<const float> part(const std::vector<float>& maps, std::size_t patches, int head) {
  if (maps.empty()) return {};
  return std::span(maps).subspan(static_cast<std::size_t>(head) * patches, patches);
}

}  // namespace

std::span<const float> AttentionMaps::map_of(int head) const {
  return head < 0 ? std::span(mean) : part(attention, patches(), head);
}

std::span<const float> AttentionMaps::mask_of(int head) const {
  return head < 0 ? std::span(mean_mask) : part(mask, patches(), head);
}

Image prepare_attention_image(const Image& picture, int short_side_px, int patch_px) {
  require(patch_px >= 1 && short_side_px >= patch_px, "attention",
          "an image size of {} px is below the patch size of {} px", short_side_px, patch_px);
  const double enlarged = static_cast<double>(short_side_px) / std::min(picture.height, picture.width);
  const double pixels = enlarged * enlarged * picture.height * picture.width;
  require(
      pixels <= kMaxPixels, "attention",
      "a picture of {}×{} pixels would have {:.0f} million with a short side of {}; expected at most {} million; try "
      "a smaller --image-size, or cut the picture",
      picture.width, picture.height, pixels * 1e-6, short_side_px, kMaxPixels / 1000000);
  CropPlan plan = plan_short_side(picture.height, picture.width, short_side_px, ResizeFilter::bilinear);
  plan.output_height = plan.resized_height / patch_px * patch_px;
  plan.output_width = plan.resized_width / patch_px * patch_px;
  Image prepared;
  prepared.resize(plan.output_height, plan.output_width);
  // Both pictures are in the host's memory, whatever the networks run on.
  const std::unique_ptr<Stream> stream = make_cpu_stream();
  augment_crop({.image = picture.array(), .plan = plan, .output = prepared.array()}, *stream);
  return prepared;
}

AttentionMaps compute_attention(const Vit& vit, Weights& weights, const Tensor& pixels,
                                const AttentionOptions& options) {
  require(options.threshold >= 0 && options.threshold <= 1, "attention", "the threshold must lie in [0, 1]; got {}",
          options.threshold);
  Context& context = weights.tape().context();
  CropPacker packer(context, vit.config().patch_px);
  const PackedCrops crops = packer.pack({{pixels}});
  require(crops.count() == 1, "attention", "got {} pictures, expected one", crops.count());
  const Tensor probabilities = vit.cls_attention(weights.tape(), weights, crops, options.layer);
  const Shape& shape = probabilities.shape();  // (H, 1 + N)
  std::vector<float> rows(static_cast<std::size_t>(shape.size()));
  context.copy_to_host(probabilities, Array(rows.data(), shape));

  AttentionMaps maps;
  maps.heads = static_cast<int>(shape[0]);
  maps.rows = crops.plan->groups[0].rows;
  maps.columns = crops.plan->groups[0].columns;
  maps.patch_px = vit.config().patch_px;
  const std::size_t patches = maps.patches();
  maps.mean.assign(patches, 0.0F);
  for (std::size_t h = 0; h < static_cast<std::size_t>(maps.heads); ++h) {
    const float* row = rows.data() + h * (1 + patches) + 1;
    maps.attention.insert(maps.attention.end(), row, row + patches);
    for (std::size_t i = 0; i < patches; ++i) maps.mean[i] += row[i] / static_cast<float>(maps.heads);
  }
  if (options.threshold > 0) {
    for (int h = 0; h < maps.heads; ++h) {
      const std::vector<float> mask = threshold_mask(maps.map_of(h), options.threshold);
      maps.mask.insert(maps.mask.end(), mask.begin(), mask.end());
    }
    maps.mean_mask = threshold_mask(maps.mean, options.threshold);
  }
  return maps;
}

AttentionMaps compute_attention(const Vit& vit, Weights& weights, const Image& prepared,
                                const AttentionOptions& options) {
  const Tensor pixels =
      weights.tape().context().from_host(prepared.array().reshaped({1, prepared.height, prepared.width, 3}));
  return compute_attention(vit, weights, pixels, options);
}

std::vector<float> threshold_mask(std::span<const float> values, double threshold) {
  double sum = 0;
  for (const float value : values) {
    require(std::isfinite(value) && value >= 0, "attention", "attention must be finite and not negative; got {}",
            value);
    sum += static_cast<double>(value);
  }
  require(sum > 0, "attention", "the attention to all patches is zero");
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<float> mask(values.size(), 0.0F);
  double below = 0;
  for (const std::size_t i : order) {
    below += static_cast<double>(values[i]);
    // The largest value is kept whatever rounding does to the sum.
    mask[i] = below > (1.0 - threshold) * sum || i == order.back() ? 1.0F : 0.0F;
  }
  return mask;
}

std::vector<NamedArray> attention_arrays(const AttentionMaps& maps, const std::string& prefix) {
  const Shape per_head{maps.heads, maps.rows, maps.columns};
  const Shape single{maps.rows, maps.columns};
  std::vector<NamedArray> arrays;
  if (maps.heads > 0) arrays.push_back({prefix + "attention", ConstArray(maps.attention.data(), per_head)});
  arrays.push_back({prefix + "mean", ConstArray(maps.mean.data(), single)});
  if (!maps.mask.empty()) arrays.push_back({prefix + "mask", ConstArray(maps.mask.data(), per_head)});
  if (!maps.mean_mask.empty()) arrays.push_back({prefix + "mean_mask", ConstArray(maps.mean_mask.data(), single)});
  return arrays;
}

}  // namespace dino
