#include "engine/communicators/connect.h"

#include "engine/communicators/mpi.h"
#include "engine/communicators/tcp.h"
#include "kernels/common/error.h"

#include <unistd.h>

#include <cstring>

namespace dino {
namespace {

std::unique_ptr<HostCommunicator> connect_by_tcp(const World& world, double timeout_s) {
  require(
      !world.address.empty() && world.port > 0, "launch",
      "{} has started {} ranks, and does not tell where rank 0 is to be found; try MASTER_ADDR and MASTER_PORT in the "
      "environment of every rank{}",
      world.launcher, world.size, world.open_mpi ? ", or --communicator mpi" : "");
  TcpOptions options;
  options.rank = world.rank;
  options.size = world.size;
  options.address = world.address;
  options.port = world.port;
  options.key = world.key;
  options.timeout_s = timeout_s;
  // Our own launcher listens already, so that nobody can take the port before rank 0.
  if (const auto listener = environment_variable("DINO_LISTENER"); listener && world.rank == 0)
    options.listener = Socket(std::atoi(listener->c_str()));
  return std::make_unique<TcpCommunicator>(std::move(options));
}

std::unique_ptr<HostCommunicator> connect_by_mpi(const World& world, double timeout_s) {
  auto communicator = std::make_unique<MpiCommunicator>(load_mpi_module(), timeout_s);
  require(
      communicator->size() == world.size && communicator->rank() == world.rank, "launch",
      "MPI takes this process for rank {} of {}, its launcher says {} of {}; try the mpirun of the Open MPI that the "
      "program was built with, or --communicator tcp",
      communicator->rank(), communicator->size(), world.rank, world.size);
  return communicator;
}

/// Every rank or none is on a GPU.
void require_same_device(HostCommunicator& host, Device device) {
  const auto mine = static_cast<std::byte>(device);
  std::vector<std::byte> all(static_cast<std::size_t>(host.size()));
  host.all_gather_host(std::span(&mine, 1), all, "devices");
  for (int r = 1; r < host.size(); ++r) {
    const auto name = [](std::byte d) { return static_cast<Device>(d) == Device::cpu ? "the CPU" : "a GPU"; };
    require(all[static_cast<std::size_t>(r)] == all[0], "launch",
            "rank {} is on {}, rank 0 on {}; try the same --device on every rank", r,
            name(all[static_cast<std::size_t>(r)]), name(all[0]));
  }
}

std::unique_ptr<Communicator> connect_gpus(std::unique_ptr<HostCommunicator> host, Context& context, double timeout_s) {
  require(&make_nccl_communicator != nullptr, "launch",
          "this program was built without NCCL; try a build where the CUDA toolkit has it, or --communicator tcp");
  return make_nccl_communicator(std::move(host), context.stream(), timeout_s);
}

}  // namespace

std::unique_ptr<Communicator> connect_ranks(const World& world, const std::string& kind, double timeout_s,
                                            Context& context) {
  if (world.size == 1) return std::make_unique<SingleProcess>();
  const bool gpu = context.device() == Device::cuda;
  require(kind != "nccl" || gpu, "launch", "NCCL is for GPUs, and this rank is on the CPU; try --communicator auto");
  require(kind != "mpi" || world.open_mpi, "launch",
          "MPI can connect ranks that its launcher has started; got {}; try mpirun, or --communicator auto",
          world.launcher);
  const bool by_mpi = kind != "tcp" && world.open_mpi;
  auto host = by_mpi ? connect_by_mpi(world, timeout_s) : connect_by_tcp(world, timeout_s);
  require_same_device(*host, context.device());
  if (!gpu || (kind != "auto" && kind != "nccl")) return host;
  return connect_gpus(std::move(host), context, timeout_s);
}

std::unique_ptr<Communicator> connect_one_rank_by_nccl(double timeout_s, Context& context) {
  require(context.device() == Device::cuda, "launch", "NCCL is for GPUs, and this is the CPU; try --communicator auto");
  return connect_gpus(std::make_unique<TcpCommunicator>(TcpOptions{}), context, timeout_s);
}

}  // namespace dino
