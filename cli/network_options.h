#pragma once

#include "cli/commands.h"
#include "cli/launch.h"
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
  bool shared = false;  // by the ranks that --gpus, --ranks or a launcher has started
  LaunchOptions launch = {};

  WeightsOptions weights_options() const;
};

/// Adds --heads and --allow-unexpected, for weights that come from elsewhere.
void add_foreign_weights_options(Command command, NetworkOptions& options);

/// Adds --weights, --network, --heads, --allow-unexpected, --device and --threads. Without `required` the newest
/// checkpoint under runs/ is taken where no weights are given.
void add_network_options(Command command, NetworkOptions& options, bool required);

/// Adds --gpus and --ranks, and lets the ranks share the command's work.
void add_shared_network_options(Command command, NetworkOptions& options);

/// The context and the network that the options name, and the other ranks of a command that they share.
struct OpenNetwork {
  explicit OpenNetwork(const NetworkOptions& options);

  bool first() const { return machine.first(); }

  std::filesystem::path weights;
  RankMachine machine;
  std::unique_ptr<Context>& context = machine.context;
  Backbone backbone;
};

/// The newest last.safetensors of the runs under runs/. Throws Error where there is none.
std::filesystem::path newest_checkpoint();

}  // namespace dino
