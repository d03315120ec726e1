#include "visualize/lettering.h"

#include <stb_easy_font.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace dino {
namespace {

/// A vertex as stb_easy_font writes it; four make an upright rectangle, clockwise from its upper left corner.
struct Vertex {
  float x, y, z;
  std::uint8_t color[4];
};
constexpr std::size_t kBytesPerLetter = 512;  // 270 on the average

/// The text in the letters that stb_easy_font has; for others it reads beyond its tables.
std::string in_letters(const std::string& text) {
  std::string letters;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte & 0xC0) == 0x80) continue;  // of a character of UTF-8 that has its question mark
    letters += byte >= 0x20 && byte < 0x7F ? c : '?';
  }
  return letters;
}

}  // namespace

int text_width(const std::string& text, int scale) {
  std::string letters = in_letters(text);  // stb_easy_font takes it writable
  return scale * stb_easy_font_width(letters.data());
}

void draw_text(Image& image, int left, int top, const std::string& text, int scale, Rgb color) {
  std::string letters = in_letters(text);
  std::vector<Vertex> vertices(kBytesPerLetter * (letters.size() + 1) / sizeof(Vertex));
  const int quads = stb_easy_font_print(0, 0, letters.data(), nullptr, vertices.data(),
                                        static_cast<int>(vertices.size() * sizeof(Vertex)));
  for (int q = 0; q < quads; ++q) {
    const std::size_t quad = 4 * static_cast<std::size_t>(q);
    const Vertex& first = vertices[quad];
    const Vertex& opposite = vertices[quad + 2];
    const int x0 = std::max(0, left + scale * static_cast<int>(first.x));
    const int y0 = std::max(0, top + scale * static_cast<int>(first.y));
    const int x1 = std::min(image.width, left + scale * static_cast<int>(opposite.x));
    const int y1 = std::min(image.height, top + scale * static_cast<int>(opposite.y));
    for (int y = y0; y < y1; ++y) {
      for (int x = x0; x < x1; ++x) {
        const auto pixel =
            static_cast<std::size_t>(y) * static_cast<std::size_t>(image.width) + static_cast<std::size_t>(x);
        std::copy(color.begin(), color.end(), image.rgb.begin() + static_cast<std::ptrdiff_t>(3 * pixel));
      }
    }
  }
}

}  // namespace dino
