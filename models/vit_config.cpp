#include "models/vit_config.h"

#include "kernels/common/error.h"

namespace dino {

VitConfig VitConfig::preset(std::string_view arch, int patch_px) {
  const std::string_view name = arch.starts_with("vit_") ? arch.substr(4) : arch;
  if (name == "tiny") return tiny(patch_px);
  if (name == "small") return small(patch_px);
  if (name == "base") return base(patch_px);
  fail("vit", "no architecture is called {}; expected vit_tiny, vit_small or vit_base", arch);
}

void VitConfig::check() const {
  require(embed_dim >= 1 && heads >= 1 && embed_dim % heads == 0, "vit", "{} heads do not divide a width of {}", heads,
          embed_dim);
  require(depth >= 1, "vit", "the depth must be at least 1; got {}", depth);
  require(patch_px >= 1 && image_px >= patch_px && image_px % patch_px == 0, "vit",
          "the image size must be a multiple of the patch size; got {} and {}", image_px, patch_px);
  require(hidden_dim() >= 1, "vit", "the MLP ratio must be positive; got {}", mlp_ratio);
  require(drop_path_rate >= 0 && drop_path_rate < 1, "vit", "the drop path rate must lie in [0, 1); got {}",
          drop_path_rate);
}

}  // namespace dino
