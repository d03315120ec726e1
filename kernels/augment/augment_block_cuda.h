#pragma once

#include "kernels/common/cuda/device.h"

// What the parts of a block that makes a crop share: its threads, and its state in shared memory.

namespace dino::cuda::augment {

inline constexpr int kMaxThreads = 1024;

/// One direction of the resize.
struct Axis {
  double scale, support, shrink;
  int source, window, outputs;
  int taps;  // the most that an output has
  bool copied, reversed, bicubic;
};

struct BlockState {
  Axis x, y;
  unsigned warp_sums[kMaxThreads / kWarpSize];
  unsigned hue_deficit[8];  // kHueDeficit, one bit each
};

/// Calls body(i) for the block's share of 0 … count - 1; neighbouring threads get neighbours.
template <typename Body>
__device__ __forceinline__ void each(int count, const Body& body) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) body(i);
}

}  // namespace dino::cuda::augment
