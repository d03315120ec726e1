#pragma once

#include "kernels/attention/attention_arguments_cuda.h"
#include "kernels/attention/attention_tiles_cuda.h"
#include "kernels/common/cuda/rows.h"

#include <cmath>
#include <cstdint>

// Attention and its gradient on CUDA cores, for what the tensor cores do not take: fp32, other head widths, addresses
// that are no multiples of 16. Any head width that fits into the shared memory; 16 queries, or keys, per block.

namespace dino::cuda::attention {

inline constexpr int kPlainWarps = 4;
inline constexpr int kPlainRows = 4 * kPlainWarps;  // four rows for each warp
inline constexpr int kPlainColumns = kWarpSize;     // at a time, one for each lane

/// Floats in a row of a tile that lanes read down a column, one bank apart.
__host__ __device__ constexpr int plain_pitch(int width) { return width | 1; }

/// Puts rows [0, valid) of a tile of `rows` into shared memory, times `factor`; the rest is zero.
template <typename T>
__device__ __forceinline__ void load_plain(const T* from, std::int64_t stride, int valid, int rows, int width,
                                           int pitch, float factor, float* to) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * width; i += kPlainWarps * kWarpSize) {
    const int row = i / width;
    const int column = i % width;
    to[row * pitch + column] = row < valid ? to_float(from[row * stride + column]) * factor : 0.0F;
  }
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kWholeWarp, value, distance));
  }
  return value;
}

/// Any head width and alignment, without tensor cores. A block takes 16 queries of one head, a lane one of 32 keys.
template <typename T>
__global__ void __launch_bounds__(kPlainWarps* kWarpSize) forward_plain(const Forward<T> args) {
  const int head = static_cast<int>(blockIdx.x) % args.heads;
  const tiles::Place place =
      tiles::find_part(args.offsets, args.sequences, kPlainRows, static_cast<int>(blockIdx.x) / args.heads);
  if (place.length == 0) return;
  const int size = args.head_width;
  const int pitch = plain_pitch(size);
  float* queries = &shared_memory<float>();             // (16, D)
  float* sums_of_values = queries + kPlainRows * size;  // (16, D)
  float* p = sums_of_values + kPlainRows * size;        // (16, 32)
  float* tile = p + kPlainRows * kPlainColumns;         // (32, D) keys, then values
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  const int first = static_cast<int>(threadIdx.x / kWarpSize) * 4;
  const int width = args.heads * size;
  const std::int64_t stride = 3 * std::int64_t{width};
  const T* qkv = args.qkv + place.begin * stride + head * size;
  load_plain(qkv + place.row * stride, stride, place.length - place.row, kPlainRows, size, size, args.exp2_scale,
             queries);
  for (int i = static_cast<int>(threadIdx.x); i < kPlainRows * size; i += kPlainWarps * kWarpSize) {
    sums_of_values[i] = 0;
  }
  float largest[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
  float sums[4] = {};
  for (int key = 0; key < place.length; key += kPlainColumns) {
    __syncthreads();
    load_plain(qkv + width + key * stride, stride, place.length - key, kPlainColumns, size, pitch, 1.0F, tile);
    __syncthreads();
    float scores[4] = {};
    for (int c = 0; c < size; ++c) {
      const float k = tile[lane * pitch + c];
#pragma unroll
      for (int r = 0; r < 4; ++r) scores[r] += queries[(first + r) * size + c] * k;
    }
    float shrink[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      if (key + lane >= place.length) scores[r] = -INFINITY;
      const float before = largest[r];
      largest[r] = fmaxf(before, warp_max(scores[r]));
      shrink[r] = exp2f(before - largest[r]);
      const float mine = exp2f(scores[r] - largest[r]);
      sums[r] = sums[r] * shrink[r] + mine;
      p[(first + r) * kPlainColumns + lane] = mine;
    }
    __syncthreads();
    load_plain(qkv + 2 * width + key * stride, stride, place.length - key, kPlainColumns, size, pitch, 1.0F, tile);
    __syncthreads();
    for (int c = lane; c < size; c += kWarpSize) {
      float sum[4] = {};
      for (int j = 0; j < kPlainColumns; ++j) {
        const float v = tile[j * pitch + c];
#pragma unroll
        for (int r = 0; r < 4; ++r) sum[r] += p[(first + r) * kPlainColumns + j] * v;
      }
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        float& total = sums_of_values[(first + r) * size + c];
        total = total * shrink[r] + sum[r];
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int row = place.row + first + r;
    const float sum = warp_sum(sums[r]);
    if (row >= place.length) break;  // all lanes of a warp together
    T* out = args.out + (std::int64_t{place.begin} + row) * width + head * size;
    for (int c = lane; c < size; c += kWarpSize) out[c] = from_float<T>(sums_of_values[(first + r) * size + c] / sum);
    if (lane == 0 && args.logsumexp != nullptr) {
      args.logsumexp[head * args.rows + place.begin + row] = (largest[r] + log2f(sum)) * kLn2;
    }
  }
}

/// Any head width and alignment, without tensor cores: gradients of 16 queries, or of 16 keys and values, per block.
template <typename T, bool kOfKeys>
__global__ void __launch_bounds__(kPlainWarps* kWarpSize, 4) backward_plain(const Backward<T> args) {
  const int head = static_cast<int>(blockIdx.x) % args.heads;
  const tiles::Place place =
      tiles::find_part(args.offsets, args.sequences, kPlainRows, static_cast<int>(blockIdx.x) / args.heads);
  if (place.length == 0) return;
  const int size = args.head_width;
  const int pitch = plain_pitch(size);
  float* x1 = &shared_memory<float>();          // (16, D)
  float* x2 = x1 + kPlainRows * size;           // (16, D)
  float* dx1 = x2 + kPlainRows * size;          // (16, D)
  float* dx2 = dx1 + kPlainRows * size;         // (16, D)
  float* p = dx2 + kPlainRows * size;           // (16, 32)
  float* ds = p + kPlainRows * kPlainColumns;   // (16, 32)
  float* y1 = ds + kPlainRows * kPlainColumns;  // (32, D)
  float* y2 = y1 + kPlainColumns * pitch;       // (32, D)
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  const int first = static_cast<int>(threadIdx.x / kWarpSize) * 4;
  const std::int64_t width = std::int64_t{args.heads} * size;
  const T* q = args.qkv + place.begin * 3 * width + head * size;
  const T* k = q + width;
  const T* v = k + width;
  const T* d_out = args.d_out + place.begin * width + head * size;
  const auto load_tile = [&](const T* from, std::int64_t stride, int row, int rows, int to_pitch, float* to) {
    load_plain(from + row * stride, stride, place.length - row, rows, size, to_pitch, 1.0F, to);
  };
  const auto statistics = [&](int row, float& exponent, float& delta) {
    exponent = exponent_of(args, head, place.begin, row, place.length);
    delta = row < place.length ? args.delta[head * args.rows + place.begin + row] : 0.0F;
  };
  load_tile(kOfKeys ? k : q, 3 * width, place.row, kPlainRows, size, x1);
  load_tile(kOfKeys ? v : d_out, kOfKeys ? 3 * width : width, place.row, kPlainRows, size, x2);
  for (int i = static_cast<int>(threadIdx.x); i < 2 * kPlainRows * size; i += kPlainWarps * kWarpSize) dx1[i] = 0;
  for (int column = 0; column < place.length; column += kPlainColumns) {
    __syncthreads();
    load_tile(kOfKeys ? q : k, 3 * width, column, kPlainColumns, pitch, y1);
    load_tile(kOfKeys ? d_out : v, kOfKeys ? width : 3 * width, column, kPlainColumns, pitch, y2);
    __syncthreads();
    float score[4] = {};
    float dp[4] = {};
    for (int c = 0; c < size; ++c) {
      const float a = y1[lane * pitch + c];
      const float b = y2[lane * pitch + c];
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        score[r] += x1[(first + r) * size + c] * a;
        dp[r] += x2[(first + r) * size + c] * b;
      }
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      float exponent;
      float delta;
      statistics(kOfKeys ? column + lane : place.row + first + r, exponent, delta);
      const bool there = column + lane < place.length;
      const float probability = there ? exp2f(score[r] * args.exp2_scale - exponent) : 0.0F;
      p[(first + r) * kPlainColumns + lane] = probability;
      ds[(first + r) * kPlainColumns + lane] = probability * (dp[r] - delta);
    }
    __syncwarp();
    for (int c = lane; c < size; c += kWarpSize) {
      float sum1[4] = {};
      float sum2[4] = {};
      for (int j = 0; j < kPlainColumns; ++j) {
        const float a = y1[j * pitch + c];
        const float b = y2[j * pitch + c];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          sum1[r] += ds[(first + r) * kPlainColumns + j] * a;
          if (kOfKeys) sum2[r] += p[(first + r) * kPlainColumns + j] * b;
        }
      }
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        dx1[(first + r) * size + c] += sum1[r];
        if (kOfKeys) dx2[(first + r) * size + c] += sum2[r];
      }
    }
  }
  const auto put = [&](T* to, int row, const float* from, float factor) {
    for (int c = lane; c < size; c += kWarpSize) {
      T& place_of = to[row * 3 * width + c];
      place_of = from_float<T>(from[c] * factor + (args.adds ? to_float(place_of) : 0.0F));
    }
  };
  for (int r = 0; r < 4; ++r) {
    const int row = place.row + first + r;
    if (row >= place.length) break;  // all lanes of a warp together
    put(gradient_of(args, place.begin, head, kOfKeys ? 1 : 0), row, dx1 + (first + r) * size, args.scale);
    if (kOfKeys) put(gradient_of(args, place.begin, head, 2), row, dx2 + (first + r) * size, 1.0F);
  }
}

/// rowsum(d_out ∘ out), a warp for a row of a head.
template <typename T>
__global__ void __launch_bounds__(kPlainWarps* kWarpSize)
    compute_deltas(const T* out, const T* d_out, float* delta, std::int64_t rows, int heads, int head_width) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kPlainWarps + threadIdx.x / kWarpSize;
  if (i >= rows * heads) return;  // all lanes of a warp together
  const float sum = row_dot<1>(out + i * head_width, d_out + i * head_width, head_width);
  if (threadIdx.x % kWarpSize == 0) delta[i % heads * rows + i / heads] = sum;
}

}  // namespace dino::cuda::attention
