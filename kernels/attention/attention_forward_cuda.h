#pragma once

#include "kernels/attention/attention_arguments_cuda.h"
#include "kernels/attention/attention_tiles_cuda.h"

#include <cmath>
#include <cstdint>

// Attention on tensor cores, bf16 with heads of 32 or 64.
//
// Method. mma.m16n8k16, a warp per 16 queries. Sequences of up to 384·64/D rows are resident: a block holds the keys
// and values of a sequence in shared memory, for as many heads as fit, so that a block of 4 heads of 37 tokens has as
// much to do per byte as one head of 197; each is read once. Longer ones stream: a block takes 64 queries and goes over
// tiles of 64 keys.
//
// Bytes: qkv, out and logsumexp once, (8 N D + 4 N) per head in bf16. Flops: 4 N² D.
//
// Bound, computed for an H200 (4.3 TB/s; 132 multiprocessors at 1.7 GHz): 197 tokens of a head of 64 take 24 ns of its
// memory and, rounded up to 208, 11 MFLOP; operands come from shared memory at 256 bytes per mma, which allows 460
// TFLOP/s: 24 ns; exponentials 12 ns. So no unit may wait for another: four blocks per multiprocessor, with 128
// registers a thread, are what lets one load while others compute, which is why a warp holds scores of 80 keys and not
// of all 208. 37 tokens: 4.4 ns of memory, 1.3 ns of products.
//
// Shared memory has no bank conflicts: see tiles::Rows. 53 KB for up to 208·64/D rows.
//
// Numerics: fp32 scores and sums; the running maximum keeps exponents at or below zero; probabilities are rounded to
// bf16 for their product with the values, not in the denominator. The same bits every time: no atomics.

namespace dino::cuda::attention {

using tiles::kStreamRows;
using tiles::kStreamWarps;
using tiles::kTile;

/// The largest of the four lanes that share a row, in each of them.
__device__ __forceinline__ float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(kWholeWarp, value, 1));
  return fmaxf(value, __shfl_xor_sync(kWholeWarp, value, 2));
}
__device__ __forceinline__ float quad_sum(float value) {
  value += __shfl_xor_sync(kWholeWarp, value, 1);
  return value + __shfl_xor_sync(kWholeWarp, value, 2);
}

/// Gives the columns of a tile that lie behind the last key, counted from its first, the score -infinity.
__device__ __forceinline__ void mask_columns(float (&scores)[2][4], int valid) {
  const int first = static_cast<int>(threadIdx.x % 4) * 2;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (first + 8 * n + i % 2 >= valid) scores[n][i] = -INFINITY;
    }
  }
}

/// Scores to probabilities without their denominator, whose share of this lane is added to `sums`.
__device__ __forceinline__ void exponentials(float (&scores)[2][4], float scale, const float (&largest)[2],
                                             float (&sums)[2]) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[n][i] = exp2_approx(fmaf(scores[n][i], scale, -largest[i / 2]));
      sums[i / 2] += scores[n][i];
    }
  }
}

/// Divides by the denominators and writes 16 queries from `row` on. `largest` are scaled scores.
template <int D>
__device__ __forceinline__ void finish_queries(const Forward<BFloat16>& args, int begin, int length, int head, int row,
                                               const float (&largest)[2], float (&sums)[2],
                                               const float (&out)[D / 8][4]) {
  const int width = args.heads * D;
  float factors[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sums[half] = quad_sum(sums[half]);
    factors[half] = 1.0F / sums[half];
    const int mine = row + static_cast<int>(threadIdx.x % kWarpSize / 4) + half * 8;
    if (args.logsumexp != nullptr && threadIdx.x % 4 == 0 && mine < length) {
      args.logsumexp[head * args.rows + begin + mine] = (largest[half] + log2f(sums[half])) * kLn2;
    }
  }
  tiles::store_rows<D>(out, factors, args.out + std::int64_t{begin} * width + head * D, width, row, length, false);
}

inline constexpr int kResidentWarps = 4;
inline constexpr int kTilesAtOnce = 5;  // of keys

/// Keys and values of some heads of a sequence stay in shared memory. A warp takes 16 queries at a time and holds their
/// scores of up to 80 keys in registers, so that four blocks fit into the register file; the largest score so far
/// decides the scale of what was summed. Blocks: H for each sequence, of which short sequences leave some without work.
template <int D>
__global__ void __launch_bounds__(kResidentWarps* kWarpSize, 4) forward_resident(const Forward<BFloat16> args) {
  using Tile = tiles::Rows<D>;
  const int sequence = static_cast<int>(blockIdx.x) / args.heads;
  const int begin = args.offsets[sequence];
  const int length = args.offsets[sequence + 1] - begin;
  if (length <= 0) return;
  const int count = (length + kTile - 1) / kTile;  // of key tiles, and of query tiles
  const tiles::HeadGroup group(static_cast<int>(blockIdx.x) % args.heads, args.heads, count * kTile, args.capacity);
  if (group.count <= 0) return;

  BFloat16* keys = &shared_memory<BFloat16>();
  BFloat16* values = keys + args.capacity * D;
  const int width = args.heads * D;
  const std::int64_t stride = 3 * std::int64_t{width};
  const BFloat16* qkv = args.qkv + begin * stride + group.first * D;
  const int head_size = count * kTile * D;
  for (int h = 0; h < group.count; ++h) {
    Tile::copy(qkv + width + h * D, stride, length, count * kTile, keys + h * head_size);
  }
  cp_async_commit();
  for (int h = 0; h < group.count; ++h) {
    Tile::copy(qkv + 2 * width + h * D, stride, length, count * kTile, values + h * head_size);
  }
  cp_async_commit();

  const int items = group.count * count;
  for (int item = static_cast<int>(threadIdx.x / kWarpSize);; item += kResidentWarps) {
    const bool works = item < items;
    const bool first = item < kResidentWarps;
    const int head = item / count;
    const int row = item % count * kTile;
    unsigned q[D / 16][4];
    if (works) tiles::load_left<D>(qkv + head * D, stride, row, length, q);
    float largest[2] = {-INFINITY, -INFINITY};
    float sums[2] = {};
    float out[D / 8][4] = {};
    for (int tile = 0; tile < count; tile += kTilesAtOnce) {
      const int here = count - tile < kTilesAtOnce ? count - tile : kTilesAtOnce;
      const BFloat16* k = keys + head * head_size + tile * kTile * D;
      const BFloat16* v = values + head * head_size + tile * kTile * D;
      float scores[kTilesAtOnce][2][4];
      float before[2] = {largest[0], largest[1]};
      if (first && tile == 0) {
        cp_async_wait<1>();
        __syncthreads();
      }
      if (works) {
#pragma unroll
        for (int j = 0; j < kTilesAtOnce; ++j) {
          if (j < here) {
#pragma unroll
            for (int i = 0; i < 8; ++i) scores[j][i / 4][i % 4] = 0;
            tiles::add_scores<D>(q, k + j * kTile * D, scores[j]);
            if (tile + j == count - 1) mask_columns(scores[j], length - (tile + j) * kTile);
#pragma unroll
            for (int i = 0; i < 8; ++i) largest[i % 4 / 2] = fmaxf(largest[i % 4 / 2], scores[j][i / 4][i % 4]);
          }
        }
      }
      if (first && tile == 0) {
        cp_async_wait<0>();
        __syncthreads();
      }
      if (!works) return;
      float scaled[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        largest[half] = quad_max(largest[half]);
        scaled[half] = largest[half] * args.exp2_scale;
        const float shrink = exp2_approx((before[half] - largest[half]) * args.exp2_scale);
        sums[half] *= shrink;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
          out[n][2 * half] *= shrink;
          out[n][2 * half + 1] *= shrink;
        }
      }
#pragma unroll
      for (int j = 0; j < kTilesAtOnce; ++j) {
        if (j < here) {
          exponentials(scores[j], args.exp2_scale, scaled, sums);
          unsigned p[4];
          tiles::as_left(scores[j], p);
          tiles::add_product<D>(p, v + j * kTile * D, out);
        }
      }
    }
    largest[0] *= args.exp2_scale;
    largest[1] *= args.exp2_scale;
    finish_queries<D>(args, begin, length, group.first + head, row, largest, sums, out);
  }
}

/// A block takes 64 queries of one head and streams over the keys and values, 64 at a time, the next on their way while
/// these are worked on. The largest score so far decides the scale of what was summed.
template <int D>
__global__ void __launch_bounds__(kStreamWarps* kWarpSize, 3) forward_streaming(const Forward<BFloat16> args) {
  using Tile = tiles::Rows<D>;
  const int head = static_cast<int>(blockIdx.x) % args.heads;
  const tiles::Place place =
      tiles::find_part(args.offsets, args.sequences, kStreamRows, static_cast<int>(blockIdx.x) / args.heads);
  if (place.length == 0) return;
  BFloat16* shared = &shared_memory<BFloat16>();  // two stages of keys and values
  constexpr int kSize = kStreamRows * D;
  const int width = args.heads * D;
  const std::int64_t stride = 3 * std::int64_t{width};
  const BFloat16* qkv = args.qkv + place.begin * stride + head * D;
  const auto start = [&](int key) {
    if (key < place.length) {
      BFloat16* to = shared + key / kStreamRows % 2 * 2 * kSize;
      const BFloat16* from = qkv + key * stride;
      Tile::copy(from + width, stride, place.length - key, kStreamRows, to);
      Tile::copy(from + 2 * width, stride, place.length - key, kStreamRows, to + kSize);
    }
    cp_async_commit();
  };
  start(0);
  const int row = place.row + static_cast<int>(threadIdx.x / kWarpSize) * kTile;
  unsigned q[D / 16][4];
  tiles::load_left<D>(qkv, stride, row, place.length, q);
  float largest[2] = {-INFINITY, -INFINITY};
  float sums[2] = {};
  float out[D / 8][4] = {};
  for (int key = 0; key < place.length; key += kStreamRows) {
    start(key + kStreamRows);
    cp_async_wait<1>();
    __syncthreads();
    const BFloat16* keys = shared + key / kStreamRows % 2 * 2 * kSize;
    float scores[kStreamWarps][2][4] = {};
    float before[2] = {largest[0], largest[1]};
#pragma unroll
    for (int j = 0; j < kStreamRows / kTile; ++j) {
      tiles::add_scores<D>(q, keys + j * kTile * D, scores[j]);
      if (key + (j + 1) * kTile > place.length) mask_columns(scores[j], place.length - key - j * kTile);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        largest[i % 4 / 2] = fmaxf(largest[i % 4 / 2], scores[j][i / 4][i % 4] * args.exp2_scale);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      largest[half] = quad_max(largest[half]);
      const float shrink = exp2_approx(before[half] - largest[half]);
      sums[half] *= shrink;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        out[n][2 * half] *= shrink;
        out[n][2 * half + 1] *= shrink;
      }
    }
#pragma unroll
    for (int j = 0; j < kStreamRows / kTile; ++j) {
      exponentials(scores[j], args.exp2_scale, largest, sums);
      unsigned p[4];
      tiles::as_left(scores[j], p);
      tiles::add_product<D>(p, keys + kSize + j * kTile * D, out);
    }
    __syncthreads();
  }
  finish_queries<D>(args, place.begin, place.length, head, row, largest, sums, out);
}

}  // namespace dino::cuda::attention
