#include "engine/communicators/nccl_api.h"
#include "kernels/common/error.h"

#include <dlfcn.h>

#include <string>

namespace dino {
namespace {

constexpr const char* kName = "libnccl.so.2";

/// Never closed: its kernels may still be on a device when the program ends.
void* open_library() {
  // The loader looks along the program's own path first, which holds lib/ beside it and the toolkit it was built with.
  void* library = dlopen(kName, RTLD_NOW | RTLD_LOCAL);
  std::string reason;
  if (library == nullptr) {
    reason = dlerror();
    library = dlopen((std::string("/usr/local/cuda/lib64/") + kName).c_str(), RTLD_NOW | RTLD_LOCAL);
  }
  require(library != nullptr, "communicator",
          "cannot load NCCL, which connects the GPUs: {}; try a bundle (scripts/bundle.sh), which brings it along, "
          "LD_LIBRARY_PATH=FOLDER with the folder that holds {}, or --communicator tcp, which is slow",
          reason, kName);
  return library;
}

template <typename Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  require(function != nullptr, "communicator", "{} has no function {}", kName, name);
}

NcclApi load() {
  void* library = open_library();
  NcclApi api{};
  find(library, "ncclGetUniqueId", api.get_unique_id);
  find(library, "ncclCommInitRank", api.init_rank);
  find(library, "ncclCommDestroy", api.destroy);
  find(library, "ncclCommAbort", api.abort);
  find(library, "ncclCommGetAsyncError", api.async_error);
  find(library, "ncclGetErrorString", api.error_string);
  find(library, "ncclGetLastError", api.last_error);
  find(library, "ncclGetVersion", api.version);
  find(library, "ncclAllReduce", api.all_reduce);
  find(library, "ncclAllGather", api.all_gather);
  find(library, "ncclBroadcast", api.broadcast);
  return api;
}

}  // namespace

const NcclApi& nccl_library() {
  static const NcclApi api = load();
  return api;
}

}  // namespace dino
