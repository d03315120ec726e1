#pragma once

#include "data/image.h"
#include "kernels/common/stream.h"

#include <filesystem>
#include <string>
#include <vector>

namespace dino {

/// A picture on a contact sheet, with a line below it.
struct SheetPicture {
  std::filesystem::path file;
  std::string caption;
};

/// The centre of a picture as a square of `side_px`: short side resized (bilinear, antialiased), the rest cut off.
Image thumbnail(const Image& picture, int side_px, Stream& stream);

/// Rows of thumbnails with captions; shorter rows end in white. A picture that cannot be read is a grey square with the
/// word `missing`. Throws Error where there is no picture at all.
Image contact_sheet(const std::vector<std::vector<SheetPicture>>& rows, int side_px, Stream& stream);

}  // namespace dino
