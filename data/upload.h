#pragma once

#include "data/loader.h"
#include "engine/context.h"
#include "models/packing.h"

#include <vector>

namespace dino {

/// The crops of a batch on the context's device, one group for each of the batch's, in the form that a Vit takes.
/// Finished crops are copied there. Of a batch made with AugmentOn::device the pictures and plans are copied, and the
/// crops are made on the context's stream. Returns when the batch may be changed again; nothing waits for the kernels.
/// Memory: besides the crops, until the call returns, the decoded pictures; the crops come first in the arena, so that
/// their addresses do not depend on the pictures. Throws Error where a plan does not fit its picture.
std::vector<CropGroup> upload_crops(Context& context, const Batch& batch);

}  // namespace dino
