// A text file that lists pictures, of which two are there.
#include "data/dataset.h"
#include "tests/fuzz/target.h"

void dino::fuzz::try_input(std::span<const std::byte> input) {
  static const auto first = folder().write("a.png", std::string_view("no picture"));
  static const auto second = folder().write("sub/b c.png", std::string_view());
  const auto dataset = open_dataset(folder().write("list.txt", input));
  for (std::int64_t i = 0; i < dataset->size(); ++i) {
    expect(dataset->label(i) < static_cast<std::int64_t>(dataset->class_names().size()), "labels name classes");
    expect(!dataset->name(i).empty(), "pictures have names");
  }
}
