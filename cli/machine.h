#pragma once

#include "engine/context.h"

#include <CLI/CLI.hpp>

#include <memory>
#include <string>

namespace dino {

/// The device that `device` (auto, cpu, cuda or cuda:N) names, and so many CPU threads (0: as the environment says).
/// auto is the first GPU where there are a driver and a card, else the CPU. Throws Error, saying what was found, when a
/// GPU that is asked for cannot be used.
std::unique_ptr<Context> open_machine(const std::string& device, int threads);

/// `NVIDIA H200 (cuda:0), 139 GiB`, or `CPU, 2 threads`, and for auto why there is no GPU.
std::string describe_device(Context& context, const std::string& device);

/// The same for what auto would choose, without opening it.
std::string describe_automatic_device();

/// Adds --device to a command that takes no keys of the configuration.
void add_device_option(CLI::App& command, std::string& device);

/// The model name of the processor; `unknown` where the system does not tell.
std::string machine_name();

}  // namespace dino
