// A batch of CIFAR-10 in its binary version.
#include "data/dataset.h"
#include "tests/fuzz/target.h"

void dino::fuzz::try_input(std::span<const std::byte> input) {
  folder().write("data_batch_1.bin", input);
  const auto dataset = open_dataset(folder().path());
  Image image;
  for (std::int64_t i = 0; i < dataset->size(); ++i) {
    dataset->decode(i, image);
    expect(dataset->label(i) >= 0 && dataset->label(i) < 10, "labels name classes");
  }
}
