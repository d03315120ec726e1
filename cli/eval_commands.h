#pragma once

#include "cli/commands.h"

namespace dino {

/// Each adds one subcommand of `eval`.
void add_eval_knn(CLI::App& eval, Run& run);
void add_eval_linear(CLI::App& eval, Run& run);

}  // namespace dino
