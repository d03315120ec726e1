#pragma once

#include <string>
#include <vector>

namespace dino {

/// Names for what is made of each picture, to stand before `_sheet.png` and the like in one folder: the picture's stem,
/// behind its folder's name where several have that stem, and with a number where even these are alike. No two are
/// equal. Whatever the paths hold, a name is not empty, holds neither slashes nor control characters, which become `_`,
/// and has at most 210 bytes, so that it fits before what follows it.
std::vector<std::string> picture_names(const std::vector<std::string>& pictures);

}  // namespace dino
