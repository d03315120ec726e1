#include "engine/communicators/world.h"

#include "kernels/common/error.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

namespace dino {
namespace {

class Variables {
 public:
  explicit Variables(const Environment& environment) : environment_(environment) {}

  bool has(const char* name) const { return environment_(name).has_value(); }
  std::string text(const char* name, const std::string& otherwise = {}) const {
    return environment_(name).value_or(otherwise);
  }
  int number(const char* name, int otherwise) const {
    const auto text = environment_(name);
    if (!text) return otherwise;
    int value = 0;
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
    require(error == std::errc() && end == text->data() + text->size() && value >= 0, "launch",
            "the environment variable {} is no number; got \"{}\"", name, *text);
    return value;
  }

 private:
  const Environment& environment_;
};

}  // namespace

std::optional<std::string> environment_variable(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr) return std::nullopt;
  return value;
}

std::string first_host(std::string_view list) {
  const std::size_t bracket = list.find('[');
  if (list.find(',') < bracket || bracket == std::string_view::npos) return std::string(list.substr(0, list.find(',')));
  const std::size_t close = std::min(list.find(']', bracket), list.size());
  const std::string_view numbers = list.substr(bracket + 1, close - bracket - 1);
  const std::string_view rest = list.substr(std::min(close + 1, list.size()));
  return fmt::format("{}{}{}", list.substr(0, bracket), numbers.substr(0, numbers.find_first_of("-,")),
                     rest.substr(0, rest.find(',')));
}

World find_world(const Environment& environment) {
  const Variables variables(environment);
  World world;
  world.address = variables.text("MASTER_ADDR");
  world.port = variables.number("MASTER_PORT", 0);
  require(world.port < 65536, "launch", "MASTER_PORT is no port; got {}, expected 1 to 65535", world.port);
  if (variables.has("RANK") || variables.has("WORLD_SIZE")) {
    for (const char* name : {"RANK", "WORLD_SIZE"}) {
      require(variables.has(name), "launch",
              "of the environment variables RANK and WORLD_SIZE {} is missing; try torchrun, or unset the other one",
              name);
    }
    world.launcher = variables.text("DINO_LAUNCHER", "torchrun");
    world.rank = variables.number("RANK", 0);
    world.size = variables.number("WORLD_SIZE", 1);
    world.local_rank = variables.number("LOCAL_RANK", world.rank);
    world.key = variables.text("DINO_RUN_KEY", variables.text("TORCHELASTIC_RUN_ID"));
    // At MASTER_PORT, torchrun itself listens for those that speak the language of its store. Ours follows from it,
    // the same on every rank, outside of the ports that systems give to whoever asks for any.
    if (world.launcher == "torchrun" && variables.text("TORCHELASTIC_USE_AGENT_STORE") == "True" && world.port > 0)
      world.port = 20000 + (world.port + 5000) % 10000;
  } else if (variables.has("OMPI_COMM_WORLD_SIZE")) {
    world.launcher = "mpirun";
    world.open_mpi = true;
    world.rank = variables.number("OMPI_COMM_WORLD_RANK", 0);
    world.size = variables.number("OMPI_COMM_WORLD_SIZE", 1);
    world.local_rank = variables.number("OMPI_COMM_WORLD_LOCAL_RANK", world.rank);
    world.key = variables.text("OMPI_MCA_ess_base_jobid", variables.text("PMIX_NAMESPACE"));
  } else if (variables.has("SLURM_STEP_NUM_TASKS") && variables.has("SLURM_STEP_ID")) {
    world.launcher = "srun";
    world.rank = variables.number("SLURM_PROCID", 0);
    world.size = variables.number("SLURM_STEP_NUM_TASKS", 1);
    world.local_rank = variables.number("SLURM_LOCALID", world.rank);
    const std::string job = variables.text("SLURM_JOB_ID"), step = variables.text("SLURM_STEP_ID");
    world.key = "slurm " + job + "." + step;
    if (world.address.empty()) world.address = first_host(variables.text("SLURM_STEP_NODELIST"));
    // The same on every rank, and another one for the next job on the node.
    if (world.port == 0)
      world.port =
          20000 + (variables.number("SLURM_JOB_ID", 0) % 1000) * 10 + variables.number("SLURM_STEP_ID", 0) % 10;
  } else if (variables.has("PMI_SIZE")) {
    world.launcher = "mpiexec";
    world.rank = variables.number("PMI_RANK", 0);
    world.size = variables.number("PMI_SIZE", 1);
    world.local_rank = variables.number("MPI_LOCALRANKID", world.rank);
  }
  require(world.size >= 1 && world.rank < world.size, "launch",
          "{} gives this process rank {} of {}; expected a rank below the number of ranks", world.launcher, world.rank,
          world.size);
  return world;
}

}  // namespace dino
