#pragma once

#include "kernels/common/cuda/device.h"

#include <cmath>
#include <cstdint>

// The arguments of the attention kernels, and what those on tensor cores and on CUDA cores do with them alike.

namespace dino::cuda::attention {

inline constexpr float kLog2E = 1.4426950408889634F;
inline constexpr float kLn2 = 0.6931471805599453F;

template <typename T>
struct Forward {
  const T* qkv;
  const std::int32_t* offsets;
  T* out;
  float* logsumexp;  // null: not wanted
  std::int64_t rows;
  int sequences, heads, head_width;
  int capacity;      // rows of keys that fit into the shared memory
  float exp2_scale;  // log2(e) / √D: probabilities are powers of two of scores times this
};

template <typename T>
struct Backward {
  const T *qkv, *out, *d_out;
  const std::int32_t* offsets;
  const float* logsumexp;
  const float* delta;  // (H, T), rowsum(d_out ∘ out), where it is computed beforehand
  T* d_qkv;
  bool adds;
  std::int64_t rows;
  int sequences, heads, head_width;
  int capacity;  // rows of a tile that fit into the shared memory
  float scale, exp2_scale;
};

/// The logsumexp of a query, as a power of two's exponent; of what is no query, one that makes its probabilities zero.
template <typename T>
__device__ __forceinline__ float exponent_of(const Backward<T>& args, int head, int begin, int row, int length) {
  return row < length ? args.logsumexp[head * args.rows + begin + row] * kLog2E : INFINITY;
}

/// Where the gradient of part 0, 1 or 2 (q, k, v) of a head lies.
template <typename T>
__device__ __forceinline__ T* gradient_of(const Backward<T>& args, int begin, int head, int part) {
  return args.d_qkv + (std::int64_t{begin} * 3 + part) * args.heads * args.head_width + head * args.head_width;
}

}  // namespace dino::cuda::attention
