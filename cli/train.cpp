#include "cli/commands.h"
#include "cli/commit.h"
#include "cli/config_options.h"
#include "cli/launch.h"
#include "cli/machine.h"
#include "cli/output.h"
#include "cli/run_facts.h"
#include "data/dataset.h"
#include "engine/text.h"
#include "evaluate/feature_monitor.h"
#include "evaluate/knn_monitor.h"
#include "kernels/common/error.h"
#include "train/config.h"
#include "train/memory_plan.h"
#include "train/precision.h"
#include "train/run_folder.h"
#include "train/stop_signal.h"
#include "train/trainer.h"
#include "visualize/report/report_observer.h"
#include "visualize/report/tensorboard_recorder.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <memory>

namespace dino {
namespace {

struct Options {
  LaunchOptions launch;
  std::string config;
  bool json = false;
  bool resume = false;
  bool print_config = false;
  bool ignore_memory = false;
  std::shared_ptr<ConfigOverrides> overrides = std::make_shared<ConfigOverrides>();
};

/// What follows a run beside its logs.
RunObservers observers_of(Context& context, const TrainConfig& config, const Dataset& images) {
  RunObservers observers;
  if (config.report_every > 0) {
    const std::map<std::string, std::string> facts{{"version", fmt::format("{}, commit {}", DINO_VERSION, commit())},
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

/// Keys and their values as TOML writes them, which is JSON as well: numbers, lists, true and false, quoted text.
nlohmann::ordered_json json_of(const TrainConfig& config) {
  nlohmann::ordered_json json;
  for (const ConfigKey& key : config_keys())
    json[std::string(key.name)] = nlohmann::ordered_json::parse(config_value(config, key.name));
  return json;
}

/// Remembers how a run went, for the one document that --json prints.
class RunSummary final : public RunObserver {
 public:
  void step_done(const StepReport& report) override {
    json_["last_step"] = report.position.step;
    json_["epoch"] = report.position.epoch;
    json_["loss"] = report.result.loss;
    json_["teacher_entropy"] = report.result.teacher_entropy;
    json_["images_per_second"] = report.images_per_second;
  }
  void evaluated(const PauseReport&, const Evaluation& evaluation) override {
    // Negative: the evaluation has none.
    if (evaluation.score >= 0)
      json_["best_score"] = std::max(evaluation.score, json_.value("best_score", evaluation.score));
    if (evaluation.numbers) json_["last_evaluation"] = *evaluation.numbers;
  }
  nlohmann::ordered_json& json() { return json_; }

 private:
  nlohmann::ordered_json json_;
};

int train_command(const Options& options) {
  const TrainConfig config = effective_config(options.config, *options.overrides);
  if (options.print_config) {
    if (options.json) {
      print_json(json_of(config));
    } else {
      fmt::print("{}", write_config(config));
    }
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
    if (machine.first()) require_no_run_at_work(config.output_dir);
    const std::unique_ptr<Dataset> images = open_dataset(config.data_path);
    if (machine.first()) say("{}\ndevice: {}", printable(images->summary()), describe_device(context, config.device));
    if (!options.ignore_memory) {
      const DType compute_type = compute_type_for(config.precision, context.device());
      RunFacts facts =
          run_facts(config, context.device(), compute_type, images.get(), most_knn_pictures(config, images->size()));
      facts.ranks = communicator.size();
      require_memory(config, facts, context, communicator);
    } else {
      memory_limits(context, communicator);  // ranks that do not ignore it wait for all
    }
    const auto summary = std::make_shared<RunSummary>();
    summary->json() = {{"output_dir", config.output_dir}, {"images", images->size()}, {"epochs", config.epochs}};
    RunObservers observers;
    if (machine.first()) {
      observers = observers_of(context, config, *images);
      observers.push_back(summary);
    }
    const int status =
        train(context, communicator, config, *images, options.resume ? StartMode::resume : StartMode::fresh,
              make_monitor(context, communicator, config, *images), std::move(observers));
    summary->json()["finished"] = status == 0;
    if (options.json && machine.first()) print_json(summary->json());
    return status;
  });
}

}  // namespace

void add_train_command(Command app, Run& run) {
  const Command command = app.add_subcommand(
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
  command.add_option("config", options->config, "TOML file; what it leaves out has the official default")
      .type_name("FILE");
  command.add_flag("--resume", options->resume, "continue the run in output_dir from its newest sound checkpoint");
  command.add_flag("--print_config", options->print_config, "write the effective configuration and stop");
  command.add_flag("--ignore_memory", options->ignore_memory,
                   "start also where the run is estimated not to fit into memory (dino_cuda plan shows the estimate)");
  add_json_option(command, options->json);
  add_launch_options(command, options->launch);
  add_config_options(command, options->overrides);
  command.callback([options, &run] { run = [options] { return train_command(*options); }; });
}

}  // namespace dino
