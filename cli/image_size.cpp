#include "cli/image_size.h"

#include "cli/output.h"

#include <algorithm>

namespace dino {

int drawing_size(int native_px, int patch_px) {
  return std::max(patch_px, native_px * 480 / 224 / patch_px * patch_px);
}

void note_large_size(const VitConfig& network, int image_px) {
  if (image_px <= 4 * network.image_px) return;
  say("note: the network has learned at {} px and sees {} px here; --image-size {} suits it better, and is quicker",
      network.image_px, image_px, drawing_size(network.image_px, network.patch_px));
}

}  // namespace dino
