#pragma once

#include "cli/commands.h"

namespace dino {

/// Adds `bench step` to the command `bench`.
void add_bench_step_command(Command bench, Run& run);

}  // namespace dino
