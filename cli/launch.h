#pragma once

#include "cli/command.h"
#include "engine/communicator.h"
#include "engine/communicators/world.h"
#include "engine/context.h"

#include <memory>
#include <optional>
#include <string>

namespace dino {

/// How many ranks of its own a command starts.
struct LaunchOptions {
  std::string gpus;  // `0,1,3` or `all`; empty: none
  int ranks = 0;     // on the CPU; 0: none
};

/// Adds --gpus and --ranks.
void add_launch_options(Command command, LaunchOptions& options);

/// Where ranks are asked for, starts this program again, with the same command line, once for each, waits for all, and
/// returns the exit status: of the first that failed, else 0. Signals are passed on; when one rank fails the others get
/// half a minute to end by themselves. None where this process is to do the work: no ranks were asked for, or it is one
/// of them. Calls nothing of CUDA in this process. Throws Error for GPUs that there are not.
std::optional<int> launch_ranks(const LaunchOptions& options);

/// A rank's device and the way to the others.
struct RankMachine {
  World world;
  std::unique_ptr<Context> context;
  std::unique_ptr<Communicator> communicator;

  bool first() const { return world.rank == 0; }
};

/// Opens the device that `device` names for this process - for auto and cuda with several ranks, the GPU of its number
/// on this machine - and finds the other ranks.
RankMachine open_ranks(const std::string& device, int threads, const std::string& communicator, double timeout_s);

/// The same without other ranks, also where a launcher has started several: each is on its own.
RankMachine open_alone(const std::string& device, int threads);

/// Does the work, and tells the other ranks the reason where it throws.
template <typename Work>
auto telling_ranks(Communicator& communicator, const Work& work) {
  try {
    return work();
  } catch (const std::exception& error) {
    communicator.abort(error.what());
    throw;
  }
}

}  // namespace dino
