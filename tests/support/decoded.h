#pragma once

#include "data/decode.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"

#include <algorithm>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dino::test {

inline Image decoded(std::span<const std::byte> bytes, const DecodeOptions& options = {}) {
  Image image;
  decode_image(bytes, "picture", options, image);
  return image;
}

inline std::string decode_error(std::span<const std::byte> bytes, const DecodeOptions& options = {}) {
  return error_of([&] { decoded(bytes, options); });
}

/// Largest difference of any byte; huge when the sizes differ.
inline int distance(const Image& a, const Image& b) {
  if (a.height != b.height || a.width != b.width || a.rgb.size() != b.rgb.size()) return 1000;
  int largest = 0;
  for (std::size_t i = 0; i < a.rgb.size(); ++i) largest = std::max(largest, std::abs(int{a.rgb[i]} - int{b.rgb[i]}));
  return largest;
}

inline std::vector<int> pixels(const Image& image) { return {image.rgb.begin(), image.rgb.end()}; }

/// As much, with alpha.
inline std::vector<int> pixels_with_alpha(std::span<const std::byte> bytes) {
  const TemporaryFolder folder;
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const RgbaImage image = decode_rgba_file(folder.write("picture", text));
  return {image.rgba.begin(), image.rgba.end()};
}

/// The lower one first.
inline std::string two_bytes(int value) { return {static_cast<char>(value & 255), static_cast<char>(value >> 8)}; }

}  // namespace dino::test
