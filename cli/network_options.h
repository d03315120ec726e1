#pragma once

#include "cli/commands.h"
#include "models/backbone.h"

#include <memory>
#include <string>

namespace dino {

/// Which trained network a command uses, and on what machine.
struct NetworkOptions {
  std::string weights;
  std::string network = "teacher";
  std::string device = "auto";
  int threads = 0;
};

/// Adds --weights, --network, --device and --threads. Without `required` the newest checkpoint under runs/ is taken
/// where no weights are given.
void add_network_options(CLI::App& command, NetworkOptions& options, bool required);

/// The context and the network that the options name.
struct OpenNetwork {
  explicit OpenNetwork(const NetworkOptions& options);

  std::filesystem::path weights;
  std::unique_ptr<Context> context;
  Backbone backbone;
};

/// The newest last.safetensors of the runs under runs/. Throws Error where there is none.
std::filesystem::path newest_checkpoint();

}  // namespace dino
