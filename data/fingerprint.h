#pragma once

#include "data/image_source.h"

#include <string>

namespace dino {

/// A number for the pictures by their order, classes and names without folders, which may differ between machines:
/// tells ranks that do not have the same ones. 16 hexadecimal digits.
std::string fingerprint_of(const ImageSource& images);

}  // namespace dino
