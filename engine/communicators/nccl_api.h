#pragma once

#include <nccl.h>

namespace dino {

/// The functions of NCCL that are used here, by address: only runs on several GPUs load the library.
struct NcclApi {
  decltype(&::ncclGetUniqueId) get_unique_id;
  decltype(&::ncclCommInitRank) init_rank;
  decltype(&::ncclCommDestroy) destroy;
  decltype(&::ncclCommAbort) abort;
  decltype(&::ncclCommGetAsyncError) async_error;
  decltype(&::ncclGetErrorString) error_string;
  decltype(&::ncclGetLastError) last_error;
  decltype(&::ncclGetVersion) version;
  decltype(&::ncclAllReduce) all_reduce;
  decltype(&::ncclAllGather) all_gather;
  decltype(&::ncclBroadcast) broadcast;
};

/// The installed library, loaded at the first call: beside the program (lib/), from the toolkit that it was built with,
/// or where the system's loader finds it. Throws Error saying where it was looked for.
const NcclApi& nccl_library();

}  // namespace dino
