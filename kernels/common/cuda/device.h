#pragma once

// What CUDA sources include instead of the toolkit's headers. They are written as ordinary CUDA; compiled as C++ they
// run on the host, thread by thread (tests/simt).
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#else
#include "tests/simt/device.h"
#endif

#include "kernels/common/dtype.h"

namespace dino::cuda {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kWholeWarp = 0xffffffffU;

#ifdef __CUDACC__
/// The block's dynamic shared memory, whose size the launch gives, as a T. All shared memory is taken here: on the host
/// it has its exact size, starts poisoned, and is watched by the address sanitizer.
template <typename T>
__device__ __forceinline__ T& shared_memory() {
  extern __shared__ __align__(128) unsigned char dino_shared_bytes[];
  return *reinterpret_cast<T*>(dino_shared_bytes);
}
#endif

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(BFloat16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}

/// A float in a compute type, rounded to nearest even.
template <typename T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ BFloat16 from_float<BFloat16>(float value) {
#ifdef __CUDACC__
  BFloat16 result;
  result.bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
  return result;
#else
  return BFloat16(value);
#endif
}

/// N neighbouring elements that are loaded and stored at once. Their address must be a multiple of their size.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
};

/// How many of N neighbouring elements move at once: 16 bytes at most, whose multiple is all that addresses promise.
template <typename T, int N>
inline constexpr int kPackPart = sizeof(T) * N <= 16 ? N : 16 / static_cast<int>(sizeof(T));

template <typename T, int N>
__device__ __forceinline__ void load(const T* from, float (&to)[N]) {
  constexpr int kAtOnce = kPackPart<T, N>;
#pragma unroll
  for (int begin = 0; begin < N; begin += kAtOnce) {
    const auto pack = *reinterpret_cast<const Pack<T, kAtOnce>*>(from + begin);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) to[begin + i] = to_float(pack.values[i]);
  }
}

template <typename T, int N>
__device__ __forceinline__ void store(const float (&from)[N], T* to) {
  constexpr int kAtOnce = kPackPart<T, N>;
#pragma unroll
  for (int begin = 0; begin < N; begin += kAtOnce) {
    Pack<T, kAtOnce> pack;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) pack.values[i] = from_float<T>(from[begin + i]);
    *reinterpret_cast<Pack<T, kAtOnce>*>(to + begin) = pack;
  }
}

/// The sum of a value over the lanes of a warp, in every lane, always added in the same order.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kWholeWarp, value, distance);
  return value;
}

}  // namespace dino::cuda
