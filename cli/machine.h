#pragma once

#include "engine/context.h"

#include <memory>
#include <string>

namespace dino {

/// The device that `device` (auto, cpu or cuda) names, and so many CPU threads (0: as the environment says).
std::unique_ptr<Context> open_machine(const std::string& device, int threads);

/// The model name of the processor; `unknown` where the system does not tell.
std::string machine_name();

}  // namespace dino
