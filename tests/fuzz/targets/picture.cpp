// A picture of any kind, decoded with and without its alpha channel.
#include "data/decode.h"
#include "kernels/common/error.h"
#include "tests/fuzz/target.h"

void dino::fuzz::try_input(std::span<const std::byte> input) {
  const DecodeOptions options{.max_pixels = 1 << 18};
  Image image;
  bool sound = true;
  try {
    decode_image(input, "hostile", options, image);
  } catch (const Error&) {
    sound = false;
  }
  const auto path = folder().write("hostile", input);
  const RgbaImage with_alpha = decode_rgba_file(path, options);
  expect(sound, "a picture with alpha is one without");
  expect(with_alpha.height == image.height && with_alpha.width == image.width, "both have one size");
  expect(std::int64_t{image.height} * image.width <= options.max_pixels, "a picture has the size that is allowed");
  for (std::size_t i = 0; i < image.rgb.size(); ++i) {
    expect(image.rgb[i] == with_alpha.rgba[i / 3 * 4 + i % 3], "both have the same colours");
  }
}
