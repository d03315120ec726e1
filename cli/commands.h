#pragma once

#include "cli/command.h"

#include <functional>

namespace dino {

/// What a subcommand does once the command line has been understood; returns the exit status.
using Run = std::function<int()>;

/// Each adds one subcommand to `app`; parsing it fills `run`.
void add_completion_command(Command app, Run& run);
void add_man_command(Command app, Run& run);
void add_init_command(Command app, Run& run);
void add_selftest_command(Command app, Run& run);
void add_train_command(Command app, Run& run);
void add_plan_command(Command app, Run& run);
void add_eval_command(Command app, Run& run);
void add_attention_command(Command app, Run& run);
void add_data_command(Command app, Run& run);
void add_bench_command(Command app, Run& run);
void add_convert_command(Command app, Run& run);
void add_features_command(Command app, Run& run);
void add_search_command(Command app, Run& run);
void add_dedupe_command(Command app, Run& run);
void add_pca_command(Command app, Run& run);
void add_video_command(Command app, Run& run);
void add_report_command(Command app, Run& run);
void add_compare_command(Command app, Run& run);

}  // namespace dino
