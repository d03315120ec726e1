#include "cli/commands.h"
#include "cli/machine.h"
#include "data/dataset.h"
#include "evaluate/knn_monitor.h"
#include "kernels/common/error.h"
#include "train/config.h"
#include "train/trainer.h"

#include <fmt/format.h>

#include <memory>

namespace dino {
namespace {

struct Options {
  std::string config;
  bool resume = false;
  bool print_config = false;
  std::vector<std::pair<std::string, std::string>> overrides;
};

int train_command(const Options& options) {
  TrainConfig config = options.config.empty() ? TrainConfig() : read_config(options.config);
  for (const auto& [key, value] : options.overrides) override_config(config, key, value);
  check_config(config);
  if (options.print_config) {
    fmt::print("{}", write_config(config));
    return 0;
  }
  require(!config.data_path.empty(), "train", "no images; try --data_path FOLDER");
  const std::unique_ptr<Context> context = open_machine(config.device, config.threads);
  const std::unique_ptr<Dataset> images = open_dataset(config.data_path);
  fmt::print(stderr, "{}\n", images->summary());
  SingleProcess communicator;
  return train(*context, communicator, config, *images, options.resume ? StartMode::resume : StartMode::fresh,
               make_knn_monitor(*context, config));
}

/// Reports a word of the command line that nothing takes.
void refuse(const std::string& word) {
  if (!word.starts_with("--")) throw CLI::ValidationError(word, "unexpected argument");
  std::vector<std::string_view> names{"resume", "print_config", "help"};
  const std::vector<ConfigKey> keys = config_keys();
  for (const ConfigKey& key : keys) names.push_back(key.name);
  const std::string name = word.substr(2, word.find('=') - 2);
  throw CLI::ValidationError("--" + name, fmt::format("unknown option; try --{}", nearest_name(name, names)));
}

}  // namespace

void add_train_command(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand(
      "train",
      "Train a model. Every key of the configuration is an option as well, and wins over the file.\n\n"
      "  dino_cuda train configs/cifar10.toml\n"
      "  dino_cuda train configs/cifar10.toml --epochs 20 --output_dir runs/short\n"
      "  dino_cuda train configs/imagenet_vits16.toml --resume\n"
      "  dino_cuda train --print_config > my.toml\n");
  auto options = std::make_shared<Options>();
  command->add_option("config", options->config, "TOML file; what it leaves out has the official default")
      ->type_name("FILE");
  command->add_flag("--resume", options->resume, "continue the run in output_dir from its newest checkpoint");
  command->add_flag("--print_config", options->print_config, "write the effective configuration and stop");
  for (const ConfigKey& key : config_keys()) {
    const std::string name(key.name);
    const auto set = [options, name](const CLI::results_t& words) {
      options->overrides.emplace_back(name, fmt::format("{}", fmt::join(words, " ")));
      return true;
    };
    CLI::Option* option =
        command->add_option("--" + name, set, fmt::format("{} (default: {})", key.comment, key.default_value));
    option->group(std::string(key.section))->type_name(key.is_list ? "LIST" : "VALUE")->type_size(1);
    key.is_list ? option->expected(1, 16) : option->expected(1);
  }
  command->allow_extras();  // reported below, with the key that was probably meant
  command->callback([command, options, &run] {
    for (const std::string& word : command->remaining()) refuse(word);
    run = [options] { return train_command(*options); };
  });
}

}  // namespace dino
