#include "cli/commands.h"
#include "cli/machine.h"
#include "cli/output.h"
#include "engine/progress.h"
#include "selftest/self_test.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>

namespace dino {
namespace {

constexpr int kFailed = 3;  // exit status

struct SelfTestCommand {
  std::string device = "auto";
  int threads = 0;
  std::string recordings;
  bool json = false;
};

/// What the table shows in one line: the same check with each instruction set.
struct Line {
  const SelfCheck* worst;
  std::vector<std::string> failed;  // instruction sets
};

std::vector<Line> lines_of(const SelfChecks& checks) {
  std::vector<Line> lines;
  for (const SelfCheck& check : checks) {
    const bool same = !lines.empty() && lines.back().worst->group == check.group &&
                      lines.back().worst->name == check.name && lines.back().worst->dtype == check.dtype;
    if (!same) {
      lines.push_back({&check, {}});
    } else if (lines.back().worst->passed() && (!check.passed() || check.error > lines.back().worst->error)) {
      lines.back().worst = &check;
    }
    if (!check.passed() && !check.target.empty()) lines.back().failed.push_back(check.target);
  }
  return lines;
}

std::string instruction_sets(const SelfChecks& checks) {
  std::vector<std::string> names;
  for (const SelfCheck& check : checks) {
    if (!check.target.empty() && std::find(names.begin(), names.end(), check.target) == names.end())
      names.push_back(check.target);
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

void print_table(const SelfChecks& checks, const std::string& device, double seconds) {
  static const std::map<std::string, const char*> kTitles = {
      {"kernels", "kernels, against their oracles in double precision"},
      {"forward", "a forward pass, against the official implementation's"},
      {"training", "a training run, against the official implementation's"}};
  const bool colors = shows_colors(stdout);
  const auto colored = [&](const char* code, const std::string& text) {
    return colors ? fmt::format("\033[{}m{}\033[0m", code, text) : text;
  };
  fmt::print("dino_cuda {} on {}\n", DINO_VERSION, device);
  const std::string sets = instruction_sets(checks);
  if (!sets.empty()) fmt::print("instruction sets: {}; errors are those of the worst\n", sets);
  std::string group;
  std::int64_t failed = 0;
  const std::vector<Line> lines = lines_of(checks);
  for (const Line& line : lines) {
    const SelfCheck& check = *line.worst;
    if (check.group != group) {
      group = check.group;
      const auto title = kTitles.find(group);
      fmt::print("\n{:<54} {:>9} {:>9}\n", title == kTitles.end() ? group : title->second, "error", "bound");
    }
    fmt::print("  {:<44} {:<7} {:>9.1e} {:>9.1e}  {}", check.name, check.dtype, check.error, check.bound,
               check.passed() ? colored("32", "ok") : colored("1;31", "FAILED"));
    if (!check.passed()) {
      ++failed;
      fmt::print("  {}{}", check.worst, line.failed.empty() ? "" : fmt::format(" ({})", fmt::join(line.failed, ", ")));
    }
    fmt::print("\n");
  }
  fmt::print("\n{}\n", failed == 0 ? colored("32", fmt::format("{} checks passed in {:.1f} s", checks.size(), seconds))
                                   : colored("1;31", fmt::format("{} of {} lines FAILED: do not train with this "
                                                                 "program on this device",
                                                                 failed, lines.size())));
}

nlohmann::ordered_json to_json(const SelfChecks& checks, const std::string& device, double seconds, bool passed) {
  nlohmann::ordered_json json = {{"version", DINO_VERSION}, {"machine", machine_name()},
                                 {"device", device},        {"passed", passed},
                                 {"seconds", seconds},      {"checks", nlohmann::ordered_json::array()}};
  for (const SelfCheck& check : checks) {
    json["checks"].push_back({{"group", check.group},
                              {"name", check.name},
                              {"dtype", check.dtype},
                              {"instruction_set", check.target},
                              {"error", check.error},  // null where it is not finite
                              {"bound", check.bound},
                              {"worst", check.worst},
                              {"passed", check.passed()}});
  }
  return json;
}

int self_test(const SelfTestCommand& options) {
  const auto start = std::chrono::steady_clock::now();
  const std::unique_ptr<Context> context = open_machine(options.device, options.threads);
  const Recordings recordings =
      options.recordings.empty() ? built_in_recordings() : read_recordings(options.recordings);
  std::unique_ptr<Progress> bar;
  SelfChecks checks =
      run_self_test(*context, recordings, [&](std::int64_t done, std::int64_t total, std::string_view what) {
        if (!bar) bar = std::make_unique<Progress>("checks", total);
        bar->update(done, fmt::format("| {}", what));
      });
  if (bar) bar->clear();
  bar.reset();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const bool passed = std::all_of(checks.begin(), checks.end(), [](const SelfCheck& check) { return check.passed(); });
  const std::string device = describe_device(*context, options.device);
  if (options.json) {
    print_json(to_json(checks, device, seconds, passed));
  } else {
    print_table(checks, device, seconds);
  }
  return passed ? 0 : kFailed;
}

}  // namespace

void add_selftest_command(Command app, Run& run) {
  const Command command = app.add_subcommand(
      "selftest",
      "Trust before a week of compute: in seconds, every kernel on this device against its double-precision oracle (on "
      "the CPU\n"
      "with each instruction set), and a forward pass and a training run - loss, gradients, center, EMA - against "
      "numbers that\n"
      "were recorded from the official implementation. Status 3 when anything is further off than its bound.\n\n"
      "  dino_cuda selftest\n"
      "  dino_cuda selftest --device cuda:1\n"
      "  dino_cuda selftest --json > selftest.json\n");
  auto options = std::make_shared<SelfTestCommand>();
  add_device_option(command, options->device);
  command.add_option("--threads", options->threads, "CPU threads (default: OMP_NUM_THREADS, else every core)")
      .positive();
  command
      .add_option("--recordings", options->recordings,
                  "folder with train_adamw, backbone and forward.safetensors to take instead of the built-in ones")
      .type_name("DIR");
  add_json_option(command, options->json);
  command.callback([options, &run] { run = [options] { return self_test(*options); }; });
}

}  // namespace dino
