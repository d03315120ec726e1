// A checkpoint as evaluation and pictures read it: which network it holds, of what shape, and its configuration.
#include "models/weights_file.h"
#include "tests/fuzz/target.h"
#include "train/config.h"

void dino::fuzz::try_input(std::span<const std::byte> input) {
  const auto path = folder().write("last.safetensors", input);
  for (const Network network : {Network::teacher, Network::student}) {
    const WeightsFile file = read_weights(path, {.network = network});
    const auto config = file.metadata().find("config");
    if (config != file.metadata().end()) check_config(parse_config(config->second, "its config"));
    for (const std::string& name : file.names()) file.read(name);
  }
}
