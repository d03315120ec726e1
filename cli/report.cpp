#include "visualize/report/report.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "visualize/report/run_comparison.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <memory>
#include <string>
#include <vector>

namespace dino {
namespace {

struct Options {
  std::vector<std::string> runs;
  std::string out;
  bool json = false;
};

/// The runs in some folders, as they are now.
class ReadRuns {
 public:
  explicit ReadRuns(const std::vector<std::string>& folders) {
    for (const std::string& folder : folders) {
      readers_.push_back(std::make_unique<RunReader>(folder));
      histories.push_back(&readers_.back()->read());
    }
  }
  std::vector<const RunHistory*> histories;

 private:
  std::vector<std::unique_ptr<RunReader>> readers_;
};

int report_command(const Options& options) {
  const ReadRuns read(options.runs);
  const std::vector<const RunHistory*>& runs = read.histories;
  const std::filesystem::path out = !options.out.empty() ? std::filesystem::path(options.out)
                                    : runs.size() == 1   ? runs[0]->folder / "report.html"
                                                         : std::filesystem::path("report.html");
  for (const RunHistory* run : runs) {
    std::vector<std::string> logs;
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(run->folder, none)) {
      if (entry.path().filename() != "report.html") logs.push_back(entry.path().string());
    }
    require_not_read("report", out, logs);
  }
  write_report(runs, out);
  const std::uintmax_t bytes = std::filesystem::file_size(out);
  if (options.json) {
    print_json({{"file", out.string()}, {"bytes", bytes}, {"runs", runs.size()}});
  } else {
    report("{}: {} KiB", out.string(), bytes >> 10);
  }
  return 0;
}

struct CompareOptions {
  std::vector<std::string> runs;
  bool json = false;
  int width = 0;
};

int compare_command(const CompareOptions& options) {
  const ReadRuns read(options.runs);
  if (options.json) {
    print_json(comparison_json(read.histories));
    return 0;
  }
  const int columns = options.width > 0 ? options.width : terminal_columns(stdout);
  fmt::print("{}", compare_runs(read.histories, {.columns = columns, .color = shows_colors(stdout)}));
  return 0;
}

}  // namespace

void add_report_command(Command app, Run& run) {
  const Command command = app.add_subcommand(
      "report",
      "Is it learning? One HTML page about a run: curves, the film of what it looks at, nearest pictures, warnings, "
      "configuration.\n"
      "It needs no network and no other file. `train` writes it after each epoch as well (key report_every).\n\n"
      "  dino_cuda report runs/mine                             writes runs/mine/report.html\n"
      "  dino_cuda report runs/a runs/b --out compared.html     several runs side by side\n");
  auto options = std::make_shared<Options>();
  command.add_option("runs", options->runs, "folders of runs: the output_dir of their training")
      .required()
      .type_name("RUN");
  command
      .add_option("--out", options->out,
                  "file to write (default: report.html in the run's folder; of several runs, in this one)")
      .type_name("FILE");
  add_json_option(command, options->json);
  command.callback([options, &run] { run = [options] { return report_command(*options); }; });
}

void add_compare_command(Command app, Run& run) {
  const Command command = app.add_subcommand(
      "compare",
      "Runs side by side in the terminal: loss, k-NN, entropy, speed, small curves, and the keys in which their "
      "configurations differ.\n\n"
      "  dino_cuda compare runs/a runs/b\n"
      "  dino_cuda compare runs/* --json > runs.json\n");
  auto options = std::make_shared<CompareOptions>();
  command.add_option("runs", options->runs, "folders of runs: the output_dir of their training")
      .required()
      .type_name("RUN");
  command.add_option("--width", options->width, "columns to use (default: those of the terminal)").in_range(40, 1000);
  add_json_option(command, options->json);
  command.callback([options, &run] { run = [options] { return compare_command(*options); }; });
}

}  // namespace dino
