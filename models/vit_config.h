#pragma once

#include <cmath>
#include <string_view>

namespace dino {

/// A vision transformer as DINO uses it (official vision_transformer.py).
struct VitConfig {
  int embed_dim = 384;  // C
  int depth = 12;
  int heads = 6;
  int patch_px = 16;
  int image_px = 224;  // side that the position embedding is made for
  double mlp_ratio = 4.0;
  bool qkv_bias = true;
  double drop_path_rate = 0.0;  // of the last block; linear from 0

  static VitConfig tiny(int patch_px = 16) { return {.embed_dim = 192, .heads = 3, .patch_px = patch_px}; }
  static VitConfig small(int patch_px = 16) { return {.patch_px = patch_px}; }
  static VitConfig base(int patch_px = 16) { return {.embed_dim = 768, .heads = 12, .patch_px = patch_px}; }
  /// `tiny`, `small` or `base`, also with the prefix `vit_`. Throws Error for any other name.
  static VitConfig preset(std::string_view arch, int patch_px = 16);

  int grid() const { return image_px / patch_px; }
  int hidden_dim() const { return static_cast<int>(std::lround(embed_dim * mlp_ratio)); }
  /// Throws Error unless the sizes make a network.
  void check() const;
  bool operator==(const VitConfig&) const = default;
};

}  // namespace dino
