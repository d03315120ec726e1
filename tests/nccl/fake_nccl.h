#pragma once

#include "engine/communicators/nccl_api.h"

#include <atomic>
#include <string>

namespace dino::test {

/// A NCCL whose ranks are threads, whose devices are the host, and which fails when it is told to.
struct FakeNccl {
  std::atomic<int> made = 0, destroyed = 0, aborted = 0;
  std::atomic<bool> hangs = false;            // collectives return at once and do nothing
  std::atomic<bool> refuses = false;          // collectives return ncclInvalidArgument
  std::atomic<int> graphs = 0;                // recorded steps that hold collectives: abort waits until there are none
  std::atomic<int> async_error_of_rank = -1;  // of which rank async_error tells one
  NcclApi api();
};

/// The one that is in use; made anew for each test.
FakeNccl& fake_nccl();
void reset_fake_nccl();

}  // namespace dino::test
