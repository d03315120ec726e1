// A configuration: text to TOML to values and back.
#include "train/config.h"

#include "tests/fuzz/target.h"

void dino::fuzz::try_input(std::span<const std::byte> input) {
  const TrainConfig config = parse_config({reinterpret_cast<const char*>(input.data()), input.size()}, "hostile.toml");
  expect(parse_config(write_config(config), "written.toml") == config, "a written configuration is read back");
  check_config(config);
}
