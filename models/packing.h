#pragma once

#include "engine/ops/patch_embed.h"
#include "engine/ops/sequences.h"

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace dino {

/// Crops of one size, view-major: crop n of image b comes at n·B + b.
struct CropGroup {
  Tensor pixels;  // (views·B, H, W, 3) uint8, or (views·B, 3, H, W) fp32 that is already normalised
};

/// How the crops of one shape of batch lie in one token matrix: sequences in the order of the groups, CLS first in
/// each.
struct PackingPlan {
  struct Group {
    std::int64_t count = 0;        // sequences
    int rows = 0, columns = 0;     // patches of each
    std::int64_t first_patch = 0;  // row of the patch matrix
  };
  std::vector<Group> groups;
  std::int64_t patches = 0;  // T - S
  Sequences sequences;       // the T tokens of all S crops
  Sequences cls_sequences;   // S sequences of one token: CLS rows on their own
};

/// The pixels of a batch and where their tokens go: what a Vit is applied to.
struct PackedCrops {
  std::vector<Tensor> pixels;  // one per group
  std::shared_ptr<const PackingPlan> plan;
  PixelNormalization normalization;

  const Sequences& sequences() const { return plan->sequences; }
  std::int64_t count() const { return plan->sequences.count(); }
};

/// Packs crops of all sizes for one forward pass. Plans are kept per shape of batch, so that a steady training step
/// builds nothing and the tables keep their addresses.
class CropPacker {
 public:
  CropPacker(Context& context, int patch_px, const PixelNormalization& normalization = {});

  /// Throws Error when the pixels have another layout, or sides that are no multiple of the patch.
  PackedCrops pack(const std::vector<CropGroup>& groups);

 private:
  struct GroupShape {
    std::int64_t count, height_px, width_px;
    auto operator<=>(const GroupShape&) const = default;
  };
  std::shared_ptr<const PackingPlan> make_plan(const std::vector<GroupShape>& shapes) const;

  Context& context_;
  int patch_px_;
  PixelNormalization normalization_;
  std::map<std::vector<GroupShape>, std::shared_ptr<const PackingPlan>> plans_;
};

}  // namespace dino
