#include "data/png.h"

#include "engine/files.h"
#include "kernels/common/error.h"

// A copy of our own: the library's, which others in the process may use as well, can be told to turn pictures over.
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>

namespace dino {

std::vector<std::byte> encode_png(std::span<const std::uint8_t> pixels, int height, int width, int channels) {
  require(channels == 1 || channels == 3 || channels == 4, "png", "channels must be 1, 3 or 4; got {}", channels);
  require(height > 0 && width > 0, "png", "a picture needs pixels; got {}×{}", width, height);
  const std::int64_t row_bytes = std::int64_t{width} * channels;
  require(static_cast<std::int64_t>(pixels.size()) == row_bytes * height, "png", "got {} bytes, expected {}×{}×{}",
          pixels.size(), height, width, channels);
  // stb counts bytes with int, and needs room for its hash chains.
  constexpr std::int64_t kMaxBytes = std::int64_t{1} << 30;
  require(row_bytes * height <= kMaxBytes, "png", "picture too large; got {}×{} pixels", width, height);
  std::vector<std::byte> bytes;
  const auto append = [](void* context, void* data, int size) {
    const auto* begin = static_cast<const std::byte*>(data);
    static_cast<std::vector<std::byte>*>(context)->insert(static_cast<std::vector<std::byte>*>(context)->end(), begin,
                                                          begin + size);
  };
  const int written =
      stbi_write_png_to_func(append, &bytes, width, height, channels, pixels.data(), static_cast<int>(row_bytes));
  require(written != 0, "png", "not enough memory for a picture of {}×{} pixels", width, height);
  return bytes;
}

void write_png(const std::filesystem::path& path, std::span<const std::uint8_t> pixels, int height, int width,
               int channels) {
  const std::vector<std::byte> bytes = encode_png(pixels, height, width, channels);
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

}  // namespace dino
