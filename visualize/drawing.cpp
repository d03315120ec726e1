#include "visualize/drawing.h"

#include "visualize/lettering.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace dino {
namespace {

std::uint8_t* pixel(Image& image, int y, int x) {
  return image.rgb.data() +
         3 * (static_cast<std::size_t>(y) * static_cast<std::size_t>(image.width) + static_cast<std::size_t>(x));
}
const std::uint8_t* pixel(const Image& image, int y, int x) {
  return image.rgb.data() +
         3 * (static_cast<std::size_t>(y) * static_cast<std::size_t>(image.width) + static_cast<std::size_t>(x));
}

std::uint8_t to_byte(double value) { return static_cast<std::uint8_t>(std::lround(std::clamp(value, 0.0, 255.0))); }

}  // namespace

Image enlarge_cells(std::span<const Rgb> cells, int rows, int columns, int cell_px) {
  require(static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns) == cells.size(), "drawing",
          "got {} cells, expected {} rows of {}", cells.size(), rows, columns);
  Image image;
  image.resize(rows * cell_px, columns * cell_px);
  for (int y = 0; y < image.height; ++y) {
    for (int x = 0; x < image.width; ++x) {
      const auto cell = static_cast<std::size_t>(y / cell_px) * static_cast<std::size_t>(columns) +
                        static_cast<std::size_t>(x / cell_px);
      std::memcpy(pixel(image, y, x), cells[cell].data(), 3);
    }
  }
  return image;
}

Image blend(const Image& under, const Image& over, double share) {
  require(under.height == over.height && under.width == over.width, "drawing", "got pictures of {}×{} and {}×{} pixels",
          under.height, under.width, over.height, over.width);
  Image image;
  image.resize(under.height, under.width);
  for (std::size_t i = 0; i < image.rgb.size(); ++i)
    image.rgb[i] = to_byte(share * over.rgb[i] + (1 - share) * under.rgb[i]);
  return image;
}

Image spotlight(const Image& picture, std::span<const float> mask, int columns, int cell_px) {
  require(columns * cell_px == picture.width &&
              mask.size() * static_cast<std::size_t>(cell_px) ==
                  static_cast<std::size_t>(columns) * static_cast<std::size_t>(picture.height),
          "drawing", "a mask of {} cells in {} columns does not cover {}×{} pixels", mask.size(), columns,
          picture.height, picture.width);
  constexpr double kDark = 0.25;
  Image image = picture;
  for (int y = 0; y < image.height; ++y) {
    for (int x = 0; x < image.width; ++x) {
      const auto cell = static_cast<std::size_t>(y / cell_px) * static_cast<std::size_t>(columns) +
                        static_cast<std::size_t>(x / cell_px);
      if (mask[cell] != 0.0F) continue;
      std::uint8_t* p = pixel(image, y, x);
      const double grey = 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2];
      std::fill_n(p, 3, to_byte(kDark * grey));
    }
  }
  return image;
}

Image outline(const Image& picture, std::span<const float> mask, int columns, int cell_px, int line_px, Rgb color) {
  require(columns >= 1 && columns * cell_px == picture.width &&
              mask.size() * static_cast<std::size_t>(cell_px) ==
                  static_cast<std::size_t>(columns) * static_cast<std::size_t>(picture.height),
          "drawing", "a mask of {} cells in {} columns does not cover {}×{} pixels", mask.size(), columns,
          picture.height, picture.width);
  const int rows = picture.height / cell_px, line = std::clamp(line_px, 1, cell_px);
  const auto inside = [&](int row, int column) {
    return row >= 0 && row < rows && column >= 0 && column < columns &&
           mask[static_cast<std::size_t>(row) * static_cast<std::size_t>(columns) + static_cast<std::size_t>(column)] !=
               0.0F;
  };
  Image image = picture;
  for (int y = 0; y < image.height; ++y) {
    for (int x = 0; x < image.width; ++x) {
      const int row = y / cell_px, column = x / cell_px;
      if (!inside(row, column)) continue;
      // The neighbour whose side, edge or corner the pixel touches.
      const auto step = [&](int at) { return at % cell_px < line ? -1 : at % cell_px >= cell_px - line ? 1 : 0; };
      const int down = step(y), right = step(x);
      if (!inside(row + down, column) || !inside(row, column + right) || !inside(row + down, column + right))
        std::memcpy(pixel(image, y, x), color.data(), 3);
    }
  }
  return image;
}

Image with_caption(const Image& picture, const std::string& caption) {
  const int scale = letter_scale(picture.width);
  const int strip_px = (kLetterHeight_px + 4) * scale;
  Image image;
  image.resize(picture.height + strip_px, picture.width);
  std::fill(image.rgb.begin(), image.rgb.end(), std::uint8_t{255});
  std::copy(picture.rgb.begin(), picture.rgb.end(), image.rgb.begin());
  std::string text = caption;
  while (!text.empty() && text_width(text, scale) > picture.width) text.pop_back();
  draw_text(image, (picture.width - text_width(text, scale)) / 2, picture.height + 3 * scale, text, scale);
  return image;
}

Image reduce_to(const Image& picture, int limit_px) {
  require(limit_px >= 1, "drawing", "pictures cannot be reduced to {} pixels", limit_px);
  const int factor = std::max(1, (std::max(picture.height, picture.width) + limit_px - 1) / limit_px);
  if (factor == 1) return picture;
  const int block_height = std::min(factor, picture.height), block_width = std::min(factor, picture.width);
  const std::int64_t area = std::int64_t{block_height} * block_width;
  Image image;
  image.resize(picture.height / block_height, picture.width / block_width);
  for (int y = 0; y < image.height; ++y) {
    for (int x = 0; x < image.width; ++x) {
      std::int64_t sum[3] = {};
      for (int v = 0; v < block_height; ++v) {
        for (int u = 0; u < block_width; ++u) {
          const std::uint8_t* p = pixel(picture, y * block_height + v, x * block_width + u);
          for (int c = 0; c < 3; ++c) sum[c] += p[c];
        }
      }
      for (int c = 0; c < 3; ++c) pixel(image, y, x)[c] = static_cast<std::uint8_t>((sum[c] + area / 2) / area);
    }
  }
  return image;
}

Image tile(const std::vector<Image>& pictures, int columns, int margin_px, Rgb background) {
  require(!pictures.empty() && columns >= 1 && margin_px >= 0, "drawing", "there is nothing to lay out");
  const int height = pictures[0].height;
  const int width = pictures[0].width;
  const int rows = (static_cast<int>(pictures.size()) + columns - 1) / columns;
  Image sheet;
  sheet.resize(rows * (height + margin_px) + margin_px, columns * (width + margin_px) + margin_px);
  for (std::size_t i = 0; i < sheet.rgb.size(); ++i) sheet.rgb[i] = background[i % 3];
  for (std::size_t n = 0; n < pictures.size(); ++n) {
    const Image& picture = pictures[n];
    require(picture.height == height && picture.width == width, "drawing", "pictures on a sheet have one size");
    const int top = margin_px + static_cast<int>(n) / columns * (height + margin_px);
    const int left = margin_px + static_cast<int>(n) % columns * (width + margin_px);
    for (int y = 0; y < height; ++y)
      std::memcpy(pixel(sheet, top + y, left), pixel(picture, y, 0), 3 * static_cast<std::size_t>(width));
  }
  return sheet;
}

Image with_column_titles(const Image& sheet, const std::vector<std::string>& titles) {
  require(!titles.empty(), "drawing", "there are no titles");
  const int column_px = sheet.width / static_cast<int>(titles.size());
  const int scale = letter_scale(column_px);
  const int strip_px = (kLetterHeight_px + 4) * scale;
  Image image;
  image.resize(strip_px + sheet.height, sheet.width);
  const auto end_of_strip = image.rgb.end() - static_cast<std::ptrdiff_t>(sheet.rgb.size());
  std::fill(image.rgb.begin(), end_of_strip, std::uint8_t{255});
  std::copy(sheet.rgb.begin(), sheet.rgb.end(), end_of_strip);
  for (std::size_t i = 0; i < titles.size(); ++i) {
    const int left = static_cast<int>(i) * column_px + (column_px - text_width(titles[i], scale)) / 2;
    draw_text(image, left, 3 * scale, titles[i], scale);
  }
  return image;
}

}  // namespace dino
