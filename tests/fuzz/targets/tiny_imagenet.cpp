// The text files of Tiny ImageNet: wnids.txt up to the first zero byte, then val_annotations.txt.
#include "data/dataset.h"
#include "tests/fuzz/target.h"

#include <algorithm>

void dino::fuzz::try_input(std::span<const std::byte> input) {
  static const auto train = folder().write("train/n01/images/a.JPEG", std::string_view());
  static const auto val = folder().write("val/images/v.JPEG", std::string_view());
  const auto middle = std::find(input.begin(), input.end(), std::byte{0});
  const auto length = static_cast<std::size_t>(middle - input.begin());
  folder().write("wnids.txt", input.first(length));
  folder().write("val/val_annotations.txt", input.subspan(std::min(length + 1, input.size())));
  folder().write("train/n01/n01_boxes.txt", input.subspan(std::min(length + 1, input.size())));
  for (const char* split : {"val", "train"}) {
    const auto dataset = open_dataset(folder().path(), {.split = split});
    for (std::int64_t i = 0; i < dataset->size(); ++i) {
      expect(dataset->label(i) >= 0 && dataset->label(i) < static_cast<std::int64_t>(dataset->class_names().size()),
             "labels name classes");
      dataset->box(i);
    }
  }
}
