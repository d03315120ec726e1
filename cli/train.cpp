#include "cli/commands.h"
#include "cli/config_options.h"
#include "cli/launch.h"
#include "cli/machine.h"
#include "cli/run_facts.h"
#include "data/dataset.h"
#include "engine/text.h"
#include "evaluate/feature_monitor.h"
#include "evaluate/knn_monitor.h"
#include "kernels/common/error.h"
#include "train/config.h"
#include "train/memory_plan.h"
#include "train/precision.h"
#include "train/stop_signal.h"
#include "train/trainer.h"
#include "visualize/report/report_observer.h"
#include "visualize/report/tensorboard_recorder.h"

#include <fmt/format.h>
#include <omp.h>

#include <cstdio>
#include <memory>

namespace dino {
namespace {

struct Options {
  LaunchOptions launch;
  std::string config;
  bool resume = false;
  bool print_config = false;
  bool ignore_memory = false;
  std::shared_ptr<ConfigOverrides> overrides = std::make_shared<ConfigOverrides>();
};

/// What follows a run beside its logs.
RunObservers observers_of(Context& context, const TrainConfig& config, const Dataset& images) {
  RunObservers observers;
  if (config.report_every > 0) {
    const std::map<std::string, std::string> facts{{"version", DINO_VERSION ", commit " DINO_COMMIT},
                                                   {"processor", machine_name()},
                                                   {"device", describe_device(context, config.device)},
                                                   {"threads", fmt::format("{}", omp_get_max_threads())},
                                                   {"data", images.summary()}};
    observers.push_back(std::make_shared<ReportObserver>(context, config, images, images.class_names(), facts));
  }
  // After the report, whose pictures it takes.
  if (config.tensorboard) observers.push_back(std::make_shared<TensorBoardRecorder>(config));
  return observers;
}

int train_command(const Options& options) {
  const TrainConfig config = effective_config(options.config, *options.overrides);
  if (options.print_config) {
    fmt::print("{}", write_config(config));
    return 0;
  }
  require(!config.data_path.empty(), "train", "no images; try --data_path FOLDER");
  if (const auto status = launch_ranks(options.launch)) return *status;
  exit_on_requeue_signal();
  const RankMachine machine =
      open_ranks(config.device, config.threads, config.communicator, config.collective_timeout_s);
  Context& context = *machine.context;
  Communicator& communicator = *machine.communicator;
  return telling_ranks(communicator, [&] {
    const std::unique_ptr<Dataset> images = open_dataset(config.data_path);
    if (machine.first()) {
      // Training does not depend on anyone who reads.
      std::fputs(fmt::format("{}\ndevice: {}\n", printable(images->summary()), describe_device(context, config.device))
                     .c_str(),
                 stderr);
    }
    if (!options.ignore_memory) {
      const DType compute_type = compute_type_for(config.precision, context.device());
      require_memory(
          config,
          run_facts(config, context.device(), compute_type, images.get(), most_knn_pictures(config, images->size())),
          context);
    }
    return train(context, communicator, config, *images, options.resume ? StartMode::resume : StartMode::fresh,
                 make_monitor(context, communicator, config, *images),
                 machine.first() ? observers_of(context, config, *images) : RunObservers{});
  });
}

}  // namespace

void add_train_command(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand(
      "train",
      "Train a model. Every key of the configuration is an option as well, and wins over the file.\n\n"
      "  dino_cuda train configs/cifar10.toml\n"
      "  dino_cuda train configs/cifar10.toml --epochs 20 --output_dir runs/short\n"
      "  dino_cuda train configs/imagenet_vits16.toml --resume\n"
      "  dino_cuda train configs/imagenet_vits16.toml --gpus all\n"
      "  dino_cuda train --print_config > my.toml\n\n"
      "Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 finish the step and save; --resume goes on from there. The exit status is "
      "then 128 + the signal,\n"
      "and 75 after SIGUSR1, for a script that queues the job again (docs/reliability.md).\n");
  auto options = std::make_shared<Options>();
  command->add_option("config", options->config, "TOML file; what it leaves out has the official default")
      ->type_name("FILE");
  command->add_flag("--resume", options->resume, "continue the run in output_dir from its newest sound checkpoint");
  command->add_flag("--print_config", options->print_config, "write the effective configuration and stop");
  command->add_flag("--ignore_memory", options->ignore_memory,
                    "start also where the run is estimated not to fit into memory (dino_cuda plan shows the estimate)");
  add_launch_options(*command, options->launch);
  add_config_options(*command, options->overrides);
  command->allow_extras();  // reported below, with the key that was probably meant
  command->callback([command, options, &run] {
    refuse_extras(*command, {"resume", "print_config", "ignore_memory", "gpus", "ranks", "help"});
    run = [options] { return train_command(*options); };
  });
}

}  // namespace dino
