#include "cli/command_tree.h"
#include "cli/commands.h"
#include "cli/machine.h"
#include "cli/output.h"
#include "cli/waiting.h"
#include "cli/words.h"
#include "engine/communicators/world.h"
#include "engine/host_memory.h"
#include "engine/progress.h"
#include "engine/text.h"
#include "kernels/common/error.h"
#include "kernels/common/out_of_memory.h"
#include "models/weights_file.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <vector>

namespace {

constexpr int kFailure = 1;
constexpr int kUsage = 2;

/// Names in files that come from elsewhere must not steer the terminal.
std::string one_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  std::replace(text.begin(), text.end(), '\n', ' ');  // of CLI11 and toml++
  return dino::printable(text);
}

/// So that a whole folder's names behind a command that wants one do not fill the terminal.
std::string shortened(const std::string& text) {
  constexpr std::size_t kMost = 300;
  const std::size_t most = dino::first_columns(text, kMost).size();
  if (most == text.size()) return text;
  const std::size_t end = text.rfind(' ', most);
  return text.substr(0, end == std::string::npos ? most : end) + " ...";
}

/// Lists commands with the first sentence of what they do, so that the list fits on a screen.
class ShortCommands : public CLI::Formatter {
 public:
  std::string make_subcommand(const CLI::App* command) const override {
    return fmt::format("  {:<12}{}\n", command->get_name(), dino::summary_of(command->get_description()));
  }
};

/// -1 for a process on its own.
int rank_of_several() {
  try {
    const dino::World world = dino::find_world();
    return world.size > 1 ? world.rank : -1;
  } catch (const dino::Error&) {
    return -1;  // the commands that ranks share will say so
  }
}

int run_program(int argc, char** argv) {
  CLI::App app(
      "dino_cuda trains, evaluates and looks into DINO vision transformers.\n\n"
      "  dino_cuda selftest                                     trust this program on this device\n"
      "  dino_cuda init my/photos                               write a configuration that suits them\n"
      "  dino_cuda train configs/cifar10.toml                   train a model\n"
      "  dino_cuda plan configs/cifar10.toml                    what that will take: memory, time, disk\n"
      "  dino_cuda train configs/cifar10.toml --resume          go on where the last run stopped\n"
      "  dino_cuda eval knn --weights W --train DIR --test DIR  measure what it has learned\n"
      "  dino_cuda attention photo.jpg                          look at what it looks at\n"
      "  dino_cuda convert IN OUT --to FORM                     exchange weights with other programs\n"
      "  dino_cuda COMMAND --help                               options and examples of a command\n");
  app.name("dino_cuda");
  app.set_version_flag("--version",
                       [] { return "dino_cuda " DINO_VERSION "\ndevice auto: " + dino::describe_automatic_device(); });
  app.require_subcommand(1);
  app.formatter(std::make_shared<ShortCommands>());
  app.failure_message([](const CLI::App*, const CLI::Error& error) {
    const std::string text = shortened(one_line(error.what()));
    return "dino_cuda: " + text + (text.find("; try ") == std::string::npos ? "; try --help" : "") + "\n";
  });
  const dino::Command program(app);
  dino::Run run;
  dino::add_init_command(program, run);
  dino::add_train_command(program, run);
  dino::add_plan_command(program, run);
  dino::add_eval_command(program, run);
  dino::add_attention_command(program, run);
  dino::add_data_command(program, run);
  dino::add_bench_command(program, run);
  dino::add_convert_command(program, run);
  dino::add_features_command(program, run);
  dino::add_search_command(program, run);
  dino::add_dedupe_command(program, run);
  dino::add_pca_command(program, run);
  dino::add_video_command(program, run);
  dino::add_report_command(program, run);
  dino::add_compare_command(program, run);
  dino::add_selftest_command(program, run);
  dino::add_completion_command(program, run);
  dino::add_man_command(program, run);
  dino::add_quiet_options(program);

  std::vector<std::string> arguments = dino::as_written_here(program, {argv + 1, argv + argc});
  try {
    dino::refuse_unknown_words(program, arguments);
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes them
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsage;
  }
  const int status = run();
  // What a full disk kept from being printed must not look like success.
  const bool flushed = std::fflush(stdout) == 0;
  dino::require(flushed && std::ferror(stdout) == 0, "output", "cannot write the output: {}",
                flushed ? "a part of it was lost; is the disk full?" : std::strerror(errno));
  return status;
}

int out_of_memory(const std::bad_alloc& error, const std::string& speaker) {
  const auto* sized = dynamic_cast<const dino::OutOfMemory*>(&error);
  const auto text = [](std::size_t bytes) { return dino::format_bytes(static_cast<double>(bytes)); };
  fmt::print(stderr,
             "{}: [memory] out of memory: {} asked for, {} in use, {}; try a smaller batch with more accumulation, or "
             "smaller images\n",
             speaker, sized != nullptr ? text(sized->size_bytes()) : "an unknown size was",
             text(dino::resident_bytes()), dino::host_memory().to_string());
  return kFailure;
}

}  // namespace

int main(int argc, char** argv) {
  dino::wait_without_long_spins(argv);
  // A file that may not grow further (ulimit -f) is a write that fails, as on a full disk.
  std::signal(SIGXFSZ, SIG_IGN);
  std::string speaker = "dino_cuda";
  try {
    // Of several ranks, the first one speaks; the others only say what goes wrong.
    const int rank = rank_of_several();
    if (rank >= 0) speaker += fmt::format(": rank {}", rank);
    if (rank > 0 && std::freopen("/dev/null", "w", stdout) == nullptr) return kFailure;
    return run_program(argc, argv);
  } catch (const std::bad_alloc& error) {
    return out_of_memory(error, speaker);
  } catch (const dino::WeightsMismatch& error) {
    std::fprintf(stderr, "%s: %s\n", speaker.c_str(), one_line(error.what()).c_str());
    for (const std::string& tensor : error.tensors()) std::fprintf(stderr, "  %s\n", one_line(tensor).c_str());
    return kFailure;
  } catch (const std::filesystem::filesystem_error& error) {
    const std::string path = one_line(error.path1().string());
    std::fprintf(stderr, "%s: [file] cannot use %s: %s\n", speaker.c_str(), path.c_str(),
                 error.code().message().c_str());
    return kFailure;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", speaker.c_str(), one_line(error.what()).c_str());
    return kFailure;
  }
}
