#pragma once

#include <CLI/CLI.hpp>

#include <functional>

namespace dino {

/// What a subcommand does once the command line has been understood; returns the exit status.
using Run = std::function<int()>;

/// Each adds one subcommand to `app`; parsing it fills `run`.
void add_completion_command(CLI::App& app, Run& run);
void add_man_command(CLI::App& app, Run& run);
void add_init_command(CLI::App& app, Run& run);
void add_selftest_command(CLI::App& app, Run& run);
void add_train_command(CLI::App& app, Run& run);
void add_plan_command(CLI::App& app, Run& run);
void add_eval_command(CLI::App& app, Run& run);
void add_attention_command(CLI::App& app, Run& run);
void add_data_command(CLI::App& app, Run& run);
void add_bench_command(CLI::App& app, Run& run);
void add_convert_command(CLI::App& app, Run& run);
void add_features_command(CLI::App& app, Run& run);
void add_search_command(CLI::App& app, Run& run);
void add_dedupe_command(CLI::App& app, Run& run);
void add_pca_command(CLI::App& app, Run& run);
void add_video_command(CLI::App& app, Run& run);
void add_report_command(CLI::App& app, Run& run);
void add_compare_command(CLI::App& app, Run& run);

}  // namespace dino
