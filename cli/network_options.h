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
  int heads = 0;  // 0: as the file says
  bool allow_unexpected = false;

  WeightsOptions weights_options() const;
};

/// Adds --heads and --allow-unexpected, for weights that come from elsewhere.
void add_foreign_weights_options(CLI::App& command, NetworkOptions& options);

/// Adds --weights, --network, --heads, --allow-unexpected, --device and --threads. Without `required` the newest
/// checkpoint under runs/ is taken where no weights are given.
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
