#pragma once

#include "api/include/dino_cuda.h"
#include "data/image.h"
#include "models/vit_config.h"

#include <cstddef>
#include <span>
#include <vector>

namespace dino::api {

/// What a network gets to see of a picture.
struct Prepared {
  int height_px = 0, width_px = 0;  // multiples of the patch
  bool normalized = false;          // fp32 (3, H, W); else uint8 (H, W, 3)

  std::size_t bytes() const {
    return static_cast<std::size_t>(height_px) * static_cast<std::size_t>(width_px) * 3 *
           (normalized ? sizeof(float) : 1);
  }
  bool operator==(const Prepared&) const = default;
};

/// `view` with its defaults written out, NULL being all defaults. Throws Refusal for numbers that make no sense with
/// this network.
dino_view complete_view(const dino_view* view, const VitConfig& config);

/// What `view`, as complete_view() returns it, makes of this picture. Reads no pixels. Throws Refusal, naming picture
/// `number`, for a picture that makes no sense.
Prepared prepared_size(const dino_image& image, std::size_t number, const dino_view& view, const VitConfig& config);

/// The pixels themselves, several pictures on several threads: in their order behind each other in `to`, each as
/// prepared_size() says, which is one and the same for all of them. `first` is the number of images[0] for messages.
void prepare(std::span<const dino_image> images, std::size_t first, const dino_view& view, const Prepared& size,
             int patch_px, std::vector<std::byte>& to);

}  // namespace dino::api
