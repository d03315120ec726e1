#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace dino {

/// An 8-bit PNG of pixels (height, width, channels), row-major; channels: 1 grey, 3 RGB, 4 RGBA. Throws Error when the
/// sizes do not fit each other.
std::vector<std::byte> encode_png(std::span<const std::uint8_t> pixels, int height, int width, int channels);

/// Writes encode_png() to `path`, atomically. Throws Error with the path and the system's reason.
void write_png(const std::filesystem::path& path, std::span<const std::uint8_t> pixels, int height, int width,
               int channels);

}  // namespace dino
