#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace dino {

/// This process's place among those that a launcher has started together.
struct World {
  int rank = 0, size = 1;
  int local_rank = 0;     // among those of this machine
  std::string launcher;   // `mpirun`, `srun`, `torchrun`, …; empty: none
  std::string address;    // of rank 0; empty: not known
  int port = 0;           // 0: not known
  std::string key;        // tells the run from others
  bool open_mpi = false;  // Open MPI can connect the processes
};

/// What an environment variable holds; none where it is not set.
using Environment = std::function<std::optional<std::string>(const char* name)>;
std::optional<std::string> environment_variable(const char* name);

/// Reads the variables of torchrun and our own launcher (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), of
/// Open MPI (OMPI_COMM_WORLD_*), of Slurm's srun (SLURM_*) and of other MPIs' launchers (PMI_*), the first that are
/// there. MASTER_ADDR and MASTER_PORT count everywhere, save that where torchrun listens at the port itself
/// (TORCHELASTIC_USE_AGENT_STORE) another follows from it. A batch script of Slurm, outside of srun, is one process.
/// Throws Error where they make no sense.
World find_world(const Environment& environment = environment_variable);

/// The first host of a list as Slurm writes it: `node[03-07,12],login` → `node03`.
std::string first_host(std::string_view list);

}  // namespace dino
