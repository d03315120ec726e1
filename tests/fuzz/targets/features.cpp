// A file of features, and what a search writes about it.
#include "evaluate/feature_file.h"
#include "tests/fuzz/target.h"

void dino::fuzz::try_input(std::span<const std::byte> input) {
  const NamedFeatures features = read_features(folder().write("features.safetensors", input));
  expect(features.names.size() == static_cast<std::size_t>(features.table.rows()), "every row has a name");
  write_features(folder().path() / "copy.csv", features);
  write_features(folder().path() / "copy.safetensors", features);
}
