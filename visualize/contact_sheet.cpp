#include "visualize/contact_sheet.h"

#include "data/crop_plan.h"
#include "data/decode.h"
#include "visualize/drawing.h"
#include "visualize/lettering.h"

#include <algorithm>

namespace dino {
namespace {

Image filled(int height, int width, std::uint8_t grey) {
  Image image;
  image.resize(height, width);
  std::fill(image.rgb.begin(), image.rgb.end(), grey);
  return image;
}

}  // namespace

Image thumbnail(const Image& picture, int side_px, Stream& stream) {
  const CropPlan plan = plan_center_crop(picture.height, picture.width, side_px, side_px, ResizeFilter::bilinear);
  Image small;
  small.resize(side_px, side_px);
  augment_crop({.image = picture.array(), .plan = plan, .output = small.array()}, stream);
  return small;
}

Image contact_sheet(const std::vector<std::vector<SheetPicture>>& rows, int side_px, Stream& stream) {
  std::size_t columns = 0;
  for (const auto& row : rows) columns = std::max(columns, row.size());
  require(columns > 0, "sheet", "there are no pictures to show");
  std::vector<Image> tiles;
  Image picture;
  for (const auto& row : rows) {
    for (const SheetPicture& shown : row) {
      Image small;
      try {
        decode_image_file(shown.file, {}, picture);
        small = thumbnail(picture, side_px, stream);
      } catch (const Error&) {
        small = filled(side_px, side_px, 200);
        draw_text(small, 4, side_px / 2, "missing", 1);
      }
      tiles.push_back(with_caption(small, shown.caption));
    }
    while (tiles.size() % columns != 0) tiles.push_back(with_caption(filled(side_px, side_px, 255), ""));
  }
  return tile(tiles, static_cast<int>(columns));
}

}  // namespace dino
