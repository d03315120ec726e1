#include "tests/nccl/fake_nccl.h"

#include "engine/communicators/threads.h"

#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

/// NCCL's opaque type, as this one has it.
struct ncclComm {
  std::unique_ptr<dino::ThreadCommunicator> ranks;
};

namespace dino::test {
namespace {

std::unique_ptr<FakeNccl> current = std::make_unique<FakeNccl>();
std::mutex mutex;
std::map<std::string, std::unique_ptr<ThreadGroup>> worlds;  // by id
int ids = 0;

ncclResult_t get_unique_id(ncclUniqueId* id) {
  const std::lock_guard lock(mutex);
  std::memset(id, 0, sizeof *id);
  std::snprintf(id->internal, sizeof id->internal, "run %d", ++ids);
  return ncclSuccess;
}

ncclResult_t init_rank(ncclComm_t* comm, int size, ncclUniqueId id, int rank) {
  ThreadGroup* group = nullptr;
  {
    const std::lock_guard lock(mutex);
    auto& world = worlds[id.internal];
    if (!world) world = std::make_unique<ThreadGroup>(size, 20);
    if (world->size() != size) return ncclInvalidArgument;
    group = world.get();
  }
  *comm = new ncclComm{std::make_unique<ThreadCommunicator>(*group, rank)};
  ++fake_nccl().made;
  (*comm)->ranks->barrier("init");
  return ncclSuccess;
}

ncclResult_t destroy(ncclComm_t comm) {
  delete comm;
  ++fake_nccl().destroyed;
  return ncclSuccess;
}

ncclResult_t abort_comm(ncclComm_t comm) {
  while (fake_nccl().graphs > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  delete comm;
  ++fake_nccl().aborted;
  return ncclSuccess;
}

ncclResult_t async_error(ncclComm_t comm, ncclResult_t* error) {
  *error = comm->ranks->rank() == fake_nccl().async_error_of_rank ? ncclRemoteError : ncclSuccess;
  return ncclSuccess;
}

const char* error_string(ncclResult_t status) {
  return status == ncclRemoteError ? "remote process exited or there was a network error" : "invalid argument";
}
const char* last_error(ncclComm_t) { return "socket closed"; }
ncclResult_t version(int* number) {
  *number = 22000;
  return ncclSuccess;
}

/// Whether a collective is to do its work.
bool works(ncclResult_t& status) {
  status = fake_nccl().refuses ? ncclInvalidArgument : ncclSuccess;
  return status == ncclSuccess && !fake_nccl().hangs;
}

ncclResult_t all_reduce(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t operation,
                        ncclComm_t comm, cudaStream_t) {
  ncclResult_t status{};
  if (!works(status)) return status;
  if (operation != ncclSum || (type != ncclFloat32 && type != ncclBfloat16)) return ncclInvalidArgument;
  const DType dtype = type == ncclFloat32 ? DType::float32 : DType::bfloat16;
  if (to != from) std::memcpy(to, from, count * size_of(dtype));
  comm->ranks->all_reduce_sum_host(Array(to, dtype, Shape{static_cast<std::int64_t>(count)}), "sum");
  return ncclSuccess;
}

ncclResult_t all_gather(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclComm_t comm,
                        cudaStream_t) {
  ncclResult_t status{};
  if (!works(status)) return status;
  if (type != ncclUint8) return ncclInvalidArgument;
  const auto ranks = static_cast<std::size_t>(comm->ranks->size());
  comm->ranks->all_gather_host({static_cast<const std::byte*>(from), count},
                               {static_cast<std::byte*>(to), count * ranks}, "gather");
  return ncclSuccess;
}

ncclResult_t broadcast(const void* from, void* to, std::size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                       cudaStream_t) {
  ncclResult_t status{};
  if (!works(status)) return status;
  if (type != ncclUint8 || from != to) return ncclInvalidArgument;
  comm->ranks->broadcast_host({static_cast<std::byte*>(to), count}, root, "broadcast");
  return ncclSuccess;
}

}  // namespace

FakeNccl& fake_nccl() { return *current; }
void reset_fake_nccl() { current = std::make_unique<FakeNccl>(); }

NcclApi FakeNccl::api() {
  return {.get_unique_id = get_unique_id,
          .init_rank = init_rank,
          .destroy = destroy,
          .abort = abort_comm,
          .async_error = async_error,
          .error_string = error_string,
          .last_error = last_error,
          .version = version,
          .all_reduce = all_reduce,
          .all_gather = all_gather,
          .broadcast = broadcast};
}

}  // namespace dino::test
