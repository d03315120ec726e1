#pragma once

#include "data/image.h"

#include <cstddef>
#include <vector>

namespace dino {

/// A picture as JPEG, for small ones that are to take little room; `quality` from 1 to 100, above 90 without loss of
/// colour resolution. Throws Error for a picture without pixels, or with more than 65535 on a side.
std::vector<std::byte> to_jpeg(const Image& image, int quality);

}  // namespace dino
