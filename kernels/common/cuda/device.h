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

#include <cstring>
#include <type_traits>

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

/// 2^x with a relative error of at most 2^-22; 0 for -infinity.
__device__ __forceinline__ float exp2_approx(float x) {
#ifdef __CUDACC__
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return std::exp2(x);
#endif
}

/// 1 / x with a relative error of at most 2^-23; 0 where the result is no normal number.
__device__ __forceinline__ float reciprocal_approx(float x) {
#ifdef __CUDACC__
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return 1.0F / x;
#endif
}

/// Two bf16 numbers in a register, `low` in the lower half, where the smaller column or row lies.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
#ifdef __CUDACC__
  unsigned result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
#else
  return BFloat16(low).bits | static_cast<unsigned>(BFloat16(high).bits) << 16;
#endif
}

/// 16 bytes at an address that is a multiple of 16.
__device__ __forceinline__ void load_16_bytes(const void* from, unsigned (&to)[4]) {
#ifdef __CUDACC__
  const uint4 words = *static_cast<const uint4*>(from);
  to[0] = words.x;
  to[1] = words.y;
  to[2] = words.z;
  to[3] = words.w;
#else
  simt::require_aligned(from, 16);
  std::memcpy(to, from, sizeof(to));
#endif
}
__device__ __forceinline__ void store_16_bytes(const unsigned (&from)[4], void* to) {
#ifdef __CUDACC__
  *static_cast<uint4*>(to) = make_uint4(from[0], from[1], from[2], from[3]);
#else
  simt::require_aligned(to, 16);
  std::memcpy(to, from, sizeof(from));
#endif
}

/// 16 or 8 bytes into global memory, at an address that is a multiple of as many. In assembly: as above, nvcc takes
/// some of the stores below apart.
__device__ __forceinline__ void store_words(const unsigned (&from)[4], void* to) {
#ifdef __CUDACC__
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(from[0]),
               "r"(from[1]), "r"(from[2]), "r"(from[3])
               : "memory");
#else
  simt::require_aligned(to, 16);
  std::memcpy(to, from, sizeof(from));
#endif
}
__device__ __forceinline__ void store_words(const unsigned (&from)[2], void* to) {
#ifdef __CUDACC__
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)), "r"(from[0]), "r"(from[1])
               : "memory");
#else
  simt::require_aligned(to, 8);
  std::memcpy(to, from, sizeof(from));
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

/// To global memory; fp32 also to shared memory.
template <typename T, int N>
__device__ __forceinline__ void store(const float (&from)[N], T* to) {
  constexpr int kAtOnce = kPackPart<T, N>;
#pragma unroll
  for (int begin = 0; begin < N; begin += kAtOnce) {
    if constexpr (std::is_same_v<T, BFloat16> && kAtOnce % 4 == 0) {
      unsigned words[kAtOnce / 2];
#pragma unroll
      for (int i = 0; i < kAtOnce / 2; ++i) words[i] = pack_bf16(from[begin + 2 * i], from[begin + 2 * i + 1]);
      store_words(words, to + begin);
    } else {
      Pack<T, kAtOnce> pack;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) pack.values[i] = from_float<T>(from[begin + i]);
      *reinterpret_cast<Pack<T, kAtOnce>*>(to + begin) = pack;
    }
  }
}

/// The sum of a value over the lanes of a warp, in every lane, always added in the same order.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kWholeWarp, value, distance);
  return value;
}

}  // namespace dino::cuda
