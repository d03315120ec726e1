#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>

namespace dino::test {

// A CUDA runtime as its documentation describes it, on the host: what the program's back end calls, under its own
// names. The work of streams runs when the host waits for it, and streams that nothing orders run in any order. Device
// memory faults when anything but a stream's work touches it. What real hardware refuses is refused, with the same
// status: calls that a capture does not allow, streams that do not come back to it, memory that is not of the kind that
// a copy names, addresses outside of an allocation.

/// When the work of streams is done.
enum class DeviceSpeed : std::uint8_t {
  late,      // when the host waits, and no more than it waits for
  shuffled,  // somewhat at each call, by any stream that can go on; the nodes of a graph in any order that it allows
};

struct FakeCuda {
  DeviceSpeed speed = DeviceSpeed::late;
  int devices = 2;  // equal ones
  int major = 9;
  int driver_version = 13000;
  cudaError_t count_status = cudaSuccess;  // what cudaGetDeviceCount says
  std::int64_t pinned_bytes = 0;           // that are allocated
  std::int64_t graphs = 0;                 // executable ones that live
  std::int64_t waits = 0;                  // of the host for a device
  std::int64_t arrived_bytes = 0;          // that copies have brought to devices
};
FakeCuda& fake_cuda();

/// Puts `work` on a stream as a kernel: it may touch the device's memory. Throws Error for what a launch refuses.
void put_on_stream(cudaStream_t stream, std::function<void()> work);
/// Gives up all work that streams still have, and captures: after a test that has failed.
void reset_fake_cuda();

}  // namespace dino::test
