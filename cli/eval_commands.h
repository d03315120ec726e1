#pragma once

#include "cli/commands.h"

namespace dino {

/// Each adds one subcommand of `eval`.
void add_eval_knn(Command eval, Run& run);
void add_eval_linear(Command eval, Run& run);

}  // namespace dino
