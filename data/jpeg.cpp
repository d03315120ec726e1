#include "data/jpeg.h"

#include "kernels/common/error.h"

// A copy of our own: the library's, which others in the process may use as well, can be told to turn pictures over.
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>

namespace dino {

std::vector<std::byte> to_jpeg(const Image& image, int quality) {
  constexpr int kMaxSide = 65535;  // sixteen bits in the header
  require(image.height > 0 && image.width > 0 && image.height <= kMaxSide && image.width <= kMaxSide, "jpeg",
          "got a picture of {}×{} pixels, expected 1 to {} on each side", image.width, image.height, kMaxSide);
  require(quality >= 1 && quality <= 100, "jpeg", "quality must be 1 to 100; got {}", quality);
  std::vector<std::byte> bytes;
  const auto append = [](void* context, void* data, int size) {
    const auto* begin = static_cast<const std::byte*>(data);
    auto* out = static_cast<std::vector<std::byte>*>(context);
    out->insert(out->end(), begin, begin + size);
  };
  const int written = stbi_write_jpg_to_func(append, &bytes, image.width, image.height, 3, image.rgb.data(), quality);
  require(written != 0, "jpeg", "cannot encode a picture of {}×{} pixels", image.width, image.height);
  return bytes;
}

}  // namespace dino
