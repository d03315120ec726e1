// NCCL of one rank, whose collectives are a stream's work: sums over one rank are the numbers themselves.
#include "engine/communicators/nccl_api.h"
#include "kernels/common/error.h"
#include "tests/cudart/fake_cudart.h"

#include <cstring>

struct ncclComm {};

namespace dino {
namespace {

ncclResult_t get_unique_id(ncclUniqueId* id) {
  std::memset(id, 0, sizeof *id);
  return ncclSuccess;
}
ncclResult_t init_rank(ncclComm_t* comm, int size, ncclUniqueId, int) {
  *comm = new ncclComm;
  return size == 1 ? ncclSuccess : ncclInvalidArgument;
}
ncclResult_t destroy(ncclComm_t comm) {
  // NCCL's waits for the graphs that hold its collectives, for ever.
  require(test::fake_cuda().graphs == 0, "fake NCCL", "a communicator is destroyed before the graphs that use it");
  delete comm;
  return ncclSuccess;
}
ncclResult_t async_error(ncclComm_t, ncclResult_t* error) {
  *error = ncclSuccess;
  return ncclSuccess;
}
const char* error_string(ncclResult_t) { return "an error of the fake"; }
const char* last_error(ncclComm_t) { return ""; }
ncclResult_t version(int* number) {
  *number = NCCL_VERSION_CODE;
  return ncclSuccess;
}

ncclResult_t put(const void* from, void* to, std::size_t size_bytes, cudaStream_t stream) {
  test::put_on_stream(stream, [=] { std::memmove(to, from, size_bytes); });
  return ncclSuccess;
}
ncclResult_t all_reduce(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t, ncclComm_t,
                        cudaStream_t stream) {
  return put(from, to, count * (type == ncclFloat32 ? 4 : 2), stream);
}
ncclResult_t all_gather(const void* from, void* to, std::size_t count, ncclDataType_t, ncclComm_t,
                        cudaStream_t stream) {
  return put(from, to, count, stream);
}
ncclResult_t broadcast(const void* from, void* to, std::size_t count, ncclDataType_t, int, ncclComm_t,
                       cudaStream_t stream) {
  return put(from, to, count, stream);
}

}  // namespace

const NcclApi& nccl_library() {
  static const NcclApi api{.get_unique_id = get_unique_id,
                           .init_rank = init_rank,
                           .destroy = destroy,
                           .abort = destroy,
                           .async_error = async_error,
                           .error_string = error_string,
                           .last_error = last_error,
                           .version = version,
                           .all_reduce = all_reduce,
                           .all_gather = all_gather,
                           .broadcast = broadcast};
  return api;
}

}  // namespace dino
