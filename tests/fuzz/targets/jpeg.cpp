// A JPEG, whatever the input begins with. Its first byte chooses the options.
#include "data/decode_jpeg.h"
#include "tests/fuzz/target.h"

void dino::fuzz::try_input(std::span<const std::byte> input) {
  if (input.empty()) return;
  const int choice = std::to_integer<int>(input[0]);
  const DecodeOptions options{.min_side_px = choice & 63,
                              .apply_orientation = (choice & 64) != 0,
                              .max_pixels = (choice & 128) != 0 ? 1 << 20 : 1 << 14};
  Image image;
  decode_jpeg(input.subspan(1), "hostile.jpg", options, image);
  expect(image.height > 0 && image.width > 0 && std::int64_t{image.height} * image.width <= options.max_pixels,
         "a picture has the size that is allowed");
  expect(image.rgb.size() == image.array().size_bytes(), "a picture has its pixels");
}
