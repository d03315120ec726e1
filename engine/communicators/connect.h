#pragma once

#include "engine/communicator.h"
#include "engine/communicators/host_communicator.h"
#include "engine/communicators/world.h"
#include "engine/context.h"

#include <memory>
#include <string>

namespace dino {

/// Finds the other ranks of a world. `kind` is nccl, mpi, tcp, or auto: NCCL where the context is a GPU, which is led
/// by MPI under mpirun and by TCP elsewhere; on the CPU these two. A world of one rank needs nothing and gets a
/// SingleProcess. Throws Error where ranks do not come, or cannot work together.
std::unique_ptr<Communicator> connect_ranks(const World& world, const std::string& kind, double timeout_s,
                                            Context& context);

/// One rank whose sums go through NCCL all the same, to see what that costs. Throws Error where the context is no GPU or
/// there is no NCCL.
std::unique_ptr<Communicator> connect_one_rank_by_nccl(double timeout_s, Context& context);

// Weak, as CUDA kernels are (docs/adr/0004): a program has it when it was built with the toolkit.

/// The ranks of `host` with NCCL between their GPUs, each on its own: of this rank the one of `stream`. `host` brings
/// them together and carries what lies in host memory.
[[gnu::weak]] std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<HostCommunicator> host,
                                                                   Stream& stream, double timeout_s);

}  // namespace dino
