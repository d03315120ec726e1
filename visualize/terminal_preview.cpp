#include "visualize/terminal_preview.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>

namespace dino {
namespace {

using Color = std::array<int, 3>;

/// Mean of the pixels of cell (x, y) of a grid of columns × rows over the picture.
Color cell_mean(const Image& picture, int x, int y, int columns, int rows) {
  const auto edge = [](int i, int cells, int pixels) {
    return static_cast<int>(static_cast<std::int64_t>(i) * pixels / cells);
  };
  const int left = edge(x, columns, picture.width), right = std::max(left + 1, edge(x + 1, columns, picture.width));
  const int top = edge(y, rows, picture.height), bottom = std::max(top + 1, edge(y + 1, rows, picture.height));
  std::array<std::int64_t, 3> sum{};
  for (int v = top; v < bottom; ++v) {
    for (int u = left; u < right; ++u) {
      const std::uint8_t* p =
          picture.array().as<std::uint8_t>() + 3 * (static_cast<std::int64_t>(v) * picture.width + u);
      for (std::size_t c = 0; c < 3; ++c) sum[c] += p[c];
    }
  }
  const std::int64_t area = static_cast<std::int64_t>(right - left) * (bottom - top);
  Color mean{};
  for (std::size_t c = 0; c < 3; ++c) mean[c] = static_cast<int>((sum[c] + area / 2) / area);
  return mean;
}

}  // namespace

std::string terminal_preview(const Image& picture, int columns) {
  require(picture.width >= 1 && picture.height >= 1 && columns >= 1, "preview",
          "a picture of {}×{} pixels cannot be shown in {} columns", picture.width, picture.height, columns);
  const int width = std::min(columns, picture.width);
  // A character is about twice as high as wide, so that half of one is square.
  const int rows = std::max(1, static_cast<int>(static_cast<std::int64_t>(picture.height) * width / picture.width));
  std::string text;
  for (int y = 0; y < rows; y += 2) {
    for (int x = 0; x < width; ++x) {
      const Color upper = cell_mean(picture, x, y, width, rows);
      fmt::format_to(std::back_inserter(text), "\x1b[38;2;{};{};{}m", upper[0], upper[1], upper[2]);
      if (y + 1 < rows) {
        const Color lower = cell_mean(picture, x, y + 1, width, rows);
        fmt::format_to(std::back_inserter(text), "\x1b[48;2;{};{};{}m", lower[0], lower[1], lower[2]);
      }
      text += "▀";
    }
    text += "\x1b[0m\n";
  }
  return text;
}

}  // namespace dino
