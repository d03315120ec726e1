// A file of weights of any kind that open_tensors() knows: torch.save's zip and old format, safetensors, an index.
#include "models/tensor_source.h"
#include "tests/fuzz/target.h"

void dino::fuzz::try_input(std::span<const std::byte> input) {
  // An index is known by its name; the shard that it may name is always there.
  static const auto shard = folder().write("model.safetensors", std::string_view("\x02\0\0\0\0\0\0\0{}", 10));
  const bool index = !input.empty() && input[0] == std::byte{'{'};
  const auto path = folder().write(index ? "model.safetensors.index.json" : "weights", input);
  const auto source = open_tensors(path);
  for (std::size_t i = 0; i < source->tensors().size(); ++i) {
    std::vector<float> values(static_cast<std::size_t>(source->tensors()[i].shape.size()));
    source->read(i, values);
  }
}
