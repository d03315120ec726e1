#pragma once

#include "cli/command.h"
#include "engine/machine.h"
#include "train/suggested_config.h"

#include <memory>
#include <string>

namespace dino {

/// open_device() with so many CPU threads (0: as the environment says).
std::unique_ptr<Context> open_machine(const std::string& device, int threads);

/// The device of the `local_rank`-th process of this machine where `device` is auto or cuda: the GPUs in turn, as
/// cuda:N; `device` itself where there are none.
std::string gpu_of_rank(const std::string& device, int local_rank);

/// What open_machine() would open, without opening it. Throws Error for what is no device; a GPU that is asked for and
/// not here counts as one of unknown memory.
MachineSummary summarize_machine(const std::string& device);

/// Adds --device to a command that takes no keys of the configuration.
void add_device_option(Command command, std::string& device);

/// The model name of the processor; `unknown` where the system does not tell.
std::string machine_name();

}  // namespace dino
