// A .safetensors file, every tensor of it read.
#include "models/safetensors.h"

#include "models/tensor_source.h"
#include "tests/fuzz/target.h"

void dino::fuzz::try_input(std::span<const std::byte> input) {
  const auto path = folder().write("model.safetensors", input);
  const SafetensorsFile file = SafetensorsFile::read(path);
  std::size_t total_bytes = 0;
  for (const std::string& name : file.names()) {
    const ConstArray array = file[name];
    total_bytes += array.size_bytes();
    std::vector<float> values(static_cast<std::size_t>(array.size()));
    convert_to_float(static_cast<const std::byte*>(array.data()), array.dtype(), values.size(), values.data());
  }
  expect(total_bytes <= input.size(), "tensors do not overlap");
}
