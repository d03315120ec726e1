#pragma once

#include "kernels/common/array.h"

#include <cstdint>
#include <vector>

namespace dino {

/// A decoded picture: (height, width, 3) uint8, row-major, RGB.
struct Image {
  int height = 0;
  int width = 0;
  std::vector<std::uint8_t> rgb;

  /// Sets the size; the pixels' values are then unspecified. Keeps the memory of an image that was larger.
  void resize(int new_height, int new_width) {
    height = new_height;
    width = new_width;
    rgb.resize(static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * 3);
  }
  Array array() { return {rgb.data(), DType::uint8, {height, width, 3}}; }
  ConstArray array() const { return {rgb.data(), DType::uint8, {height, width, 3}}; }
};

}  // namespace dino
