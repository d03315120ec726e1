#include "cli/network_options.h"

#include "cli/machine.h"
#include "kernels/common/error.h"

#include <system_error>

namespace dino {
namespace {

constexpr const char* kRunsFolder = "runs";
constexpr double kTimeout_s = 600;  // for ranks that wait for each other

}  // namespace

WeightsOptions NetworkOptions::weights_options() const {
  return {.network = network == "student" ? Network::student : Network::teacher,
          .heads = heads > 0 ? std::optional(heads) : std::nullopt,
          .allow_unexpected = allow_unexpected};
}

void add_foreign_weights_options(Command command, NetworkOptions& options) {
  command.add_option("--heads", options.heads, "attention heads, where the weights do not say (default: width / 64)")
      .positive();
  command.add_flag("--allow-unexpected", options.allow_unexpected,
                   "ignore tensors of the weights that the network has no place for");
}

void add_network_options(Command command, NetworkOptions& options, bool required) {
  const Option weights =
      command
          .add_option("--weights", options.weights,
                      required ? "checkpoint or weights: .safetensors or .pth"
                               : "checkpoint or weights (default: the newest last.safetensors under runs/)")
          .type_name("FILE");
  if (required) weights.required();
  command.add_option("--network", options.network, "which network of a checkpoint")
      .one_of({"teacher", "student"})
      .capture_default_str();
  add_foreign_weights_options(command, options);
  add_device_option(command, options.device);
  command.add_option("--threads", options.threads, "CPU threads (default: one per processor)").positive();
}

void add_shared_network_options(Command command, NetworkOptions& options) {
  options.shared = true;
  add_launch_options(command, options.launch);
}

OpenNetwork::OpenNetwork(const NetworkOptions& options)
    : weights(options.weights.empty() ? newest_checkpoint() : std::filesystem::path(options.weights)),
      machine(options.shared ? open_ranks(options.device, options.threads, "auto", kTimeout_s)
                             : open_alone(options.device, options.threads)),
      backbone(*context, weights, DType::float32, options.weights_options()) {}

std::filesystem::path newest_checkpoint() {
  std::filesystem::path newest;
  std::filesystem::file_time_type newest_time{};
  std::error_code error;
  const std::filesystem::directory_iterator runs(kRunsFolder, error);
  require(!error || error == std::errc::no_such_file_or_directory, "weights",
          "cannot look for weights in {}/: {}; try --weights FILE", kRunsFolder, error.message());
  for (const auto& run : runs) {
    const std::filesystem::path checkpoint = run.path() / "last.safetensors";
    const auto time = std::filesystem::last_write_time(checkpoint, error);
    if (!error && (newest.empty() || time > newest_time)) {
      newest = checkpoint;
      newest_time = time;
    }
  }
  require(!newest.empty(), "weights",
          "no weights were given and there is no checkpoint under {}/; try --weights FILE, or train first: "
          "./scripts/demo.sh",
          kRunsFolder);
  return newest;
}

}  // namespace dino
