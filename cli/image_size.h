#pragma once

#include "models/vit.h"

namespace dino {

/// The short side in pixels at which pictures are best drawn for a network that was trained on crops of `native_px`:
/// as much larger as the official pictures are (480 for 224), a multiple of the patch.
int drawing_size(int native_px, int patch_px);

/// Says where a network sees pictures at many times the size of its crops, which is slow and shows it what it has not
/// learned.
void note_large_size(const VitConfig& network, int image_px);

}  // namespace dino
