#pragma once

#include "kernels/common/cuda/device.h"

namespace dino::cuda {

/// Where this lane begins in a row that a warp reads in packs of N.
template <int N>
__device__ __forceinline__ int first_column() {
  return static_cast<int>(threadIdx.x) % kWarpSize * N;
}

/// Σ x·y over a row of `width` elements, in every lane of the warp that computes it.
template <int N, typename X, typename Y>
__device__ __forceinline__ float row_dot(const X* x, const Y* y, int width) {
  float sum = 0;
  for (int c = first_column<N>(); c < width; c += kWarpSize * N) {
    float a[N];
    float b[N];
    load(x + c, a);
    load(y + c, b);
#pragma unroll
    for (int i = 0; i < N; ++i) sum += a[i] * b[i];
  }
  return warp_sum(sum);
}

}  // namespace dino::cuda
