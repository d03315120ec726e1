#include "engine/communicators/nccl_api.h"
#include "kernels/common/cuda/shared_library.h"

namespace dino {
namespace {

constexpr const char* kName = "libnccl.so.2";

NcclApi load() {
  const SharedLibrary library("communicator", kName, "NCCL, which connects the GPUs",
                              "; or --communicator tcp, which is slow");
  NcclApi api{};
  library.find("ncclGetUniqueId", api.get_unique_id);
  library.find("ncclCommInitRank", api.init_rank);
  library.find("ncclCommDestroy", api.destroy);
  library.find("ncclCommAbort", api.abort);
  library.find("ncclCommGetAsyncError", api.async_error);
  library.find("ncclGetErrorString", api.error_string);
  library.find("ncclGetLastError", api.last_error);
  library.find("ncclGetVersion", api.version);
  library.find("ncclAllReduce", api.all_reduce);
  library.find("ncclAllGather", api.all_gather);
  library.find("ncclBroadcast", api.broadcast);
  return api;
}

}  // namespace

const NcclApi& nccl_library() {
  static const NcclApi api = load();
  return api;
}

}  // namespace dino
