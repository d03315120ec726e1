// The config.json beside a network of Hugging Face's.
#include "models/hugging_face.h"
#include "tests/fuzz/target.h"

void dino::fuzz::try_input(std::span<const std::byte> input) {
  const auto path = folder().write("config.json", input);
  HuggingFaceConfig::read(path).require_agrees({}, path);
}
