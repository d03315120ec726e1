#pragma once

#include "data/image.h"
#include "models/safetensors.h"
#include "models/vit.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dino {

struct AttentionOptions {
  int layer = -1;          // block whose attention is shown; negative from the end
  double threshold = 0.6;  // share of the mass that the masks keep, in (0, 1]; 0 for no masks
};

/// What the CLS token of a picture looks at (official visualize_attention.py).
struct AttentionMaps {
  int heads = 0;              // 0 where only `mean` is meant, as for a rollout
  int rows = 0, columns = 0;  // patches
  int patch_px = 0;
  std::vector<float> attention;  // (H, rows, columns): the CLS row of each head without its CLS column
  std::vector<float> mask;  // (H, rows, columns): 1 for the patches that hold the top `threshold` of the head's mass
  std::vector<float> mean;  // (rows, columns): mean of the heads
  std::vector<float> mean_mask;  // (rows, columns): of the mean

  std::size_t patches() const { return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns); }
  /// Map and mask of a head, or of the mean for head -1. The mask is empty when none was made.
  std::span<const float> map_of(int head) const;
  std::span<const float> mask_of(int head) const;
};

/// The picture as the network is to see it: short side resized to `short_side_px` (bilinear, antialiased), then cut at
/// the bottom and on the right to multiples of the patch. Throws Error for more than 64 million pixels.
Image prepare_attention_image(const Image& picture, int short_side_px, int patch_px);

/// Attention of one picture: uint8 (1, H, W, 3), or fp32 (1, 3, H, W) that is already normalised. Sides are multiples
/// of the patch. `weights` should belong to a tape that does not record.
AttentionMaps compute_attention(const Vit& vit, Weights& weights, const Tensor& pixels,
                                const AttentionOptions& options = {});

/// The same of a prepared picture.
AttentionMaps compute_attention(const Vit& vit, Weights& weights, const Image& prepared,
                                const AttentionOptions& options = {});

/// 1 for the largest values that together hold `threshold` of the sum, else 0. Values are sorted and summed from the
/// smallest; those are kept at which the sum exceeds 1 - threshold of the whole. Throws Error for values that are no
/// distribution: negative, not finite or all zero.
std::vector<float> threshold_mask(std::span<const float> values, double threshold);

/// Maps and masks as arrays named `PREFIXattention`, `PREFIXmask`, `PREFIXmean`, `PREFIXmean_mask`, for
/// write_safetensors. They point into `maps`.
std::vector<NamedArray> attention_arrays(const AttentionMaps& maps, const std::string& prefix = "");

}  // namespace dino
