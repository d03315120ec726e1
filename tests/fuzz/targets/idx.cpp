// IDX files: the first two bytes are the length of the labels, which come next; then the pictures. Both may be gzipped.
#include "data/dataset.h"
#include "tests/fuzz/target.h"

#include <algorithm>

void dino::fuzz::try_input(std::span<const std::byte> input) {
  if (input.size() < 2) return;
  const auto length = std::to_integer<std::size_t>(input[0]) | std::to_integer<std::size_t>(input[1]) << 8;
  const auto labels = input.subspan(2, std::min(length, input.size() - 2));
  folder().write("train-labels-idx1-ubyte", labels);
  folder().write("train-images-idx3-ubyte", input.subspan(2 + labels.size()));
  const auto dataset = open_dataset(folder().path());
  Image image;
  for (std::int64_t i = 0; i < std::min<std::int64_t>(dataset->size(), 100); ++i) {
    dataset->decode(i, image);
    expect(dataset->label(i) < static_cast<std::int64_t>(dataset->class_names().size()), "labels name classes");
  }
}
