#pragma once

#include "kernels/attention/attention_arguments_cuda.h"
#include "kernels/attention/attention_tiles_cuda.h"
#include "kernels/common/cuda/rows.h"

#include <cmath>
#include <cstdint>

// The gradient of attention on tensor cores, bf16 with heads of 32 or 64.
//
// Method. Every sum belongs to one warp: of 16 keys over all queries (dk, dv), of 16 queries over all keys (dq). Scores
// and d_out vᵀ are computed in both directions: 14 N² D flops where 10 would do, in exchange for no atomics and no
// matrix of ds. Up to 208·64/D rows, q, k, v and d_out stay in shared memory (108 KB, two blocks per multiprocessor of
// sm_90, one of sm_80); longer sequences stream in two launches, after one for rowsum(d_out ∘ out).
//
// Bytes: 16 N D per head in bf16: 197 tokens of a head of 64 take 47 ns of an H200's memory and 39 MFLOP (rounded up),
// 84 ns at the 460 TFLOP/s of attention_forward_cuda.h: bound by operands from shared memory.
//
// Numerics: p and ds are rounded to bf16 for their products; 1/√D is applied to the fp32 sums. The same bits every
// time.
//
// Both halves have one form. Of rows x they sum over the columns y of the scores:
//   queries:          x1 = q, x2 = d_out, y1 = k, y2 = v:
//   keys and values:  x1 = k, x2 = v,     y1 = q, y2 = d_out:
//     p = exp(x1 y1ᵀ / √D − logsumexp), ds = p ∘ (x2 y2ᵀ − δ), dx1 = ds y1 / √D, and of keys dx2 = p y2.

namespace dino::cuda::attention {

using tiles::kStreamRows;
using tiles::kStreamWarps;
using tiles::kTile;

/// Adds a tile of 16 columns to the gradients of 16 rows. `exponents` and `deltas` are those of the tile's queries
/// where the rows are keys, else of the rows group and group + 8. `valid`: columns that there are.
template <int D, bool kOfKeys>
__device__ __forceinline__ void add_columns(const unsigned (&x1)[D / 16][4], const unsigned (&x2)[D / 16][4],
                                            const BFloat16* y1, const BFloat16* y2, const float* exponents,
                                            const float* deltas, int valid, float exp2_scale, float (&dx1)[D / 8][4],
                                            float (&dx2)[D / 8][4]) {
  float p[2][4] = {};
  float ds[2][4] = {};
  tiles::add_scores<D>(x1, y1, p);
  tiles::add_scores<D>(x2, y2, ds);
  const int first = static_cast<int>(threadIdx.x % 4) * 2;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = first + 8 * n + i % 2;
      const int query = kOfKeys ? column : i / 2;
      p[n][i] = exp2_approx(fmaf(p[n][i], exp2_scale, -exponents[query]));
      if (!kOfKeys && column >= valid) p[n][i] = 0;
      ds[n][i] = p[n][i] * (ds[n][i] - deltas[query]);
    }
  }
  unsigned left[4];
  tiles::as_left(ds, left);
  tiles::add_product<D>(left, y1, dx1);
  if constexpr (kOfKeys) {
    tiles::as_left(p, left);
    tiles::add_product<D>(left, y2, dx2);
  }
}

template <int D, bool kOfKeys>
__device__ __forceinline__ void store_gradients(const Backward<BFloat16>& args, int begin, int head, int row,
                                                int length, const float (&dx1)[D / 8][4],
                                                const float (&dx2)[D / 8][4]) {
  const std::int64_t stride = 3 * std::int64_t{args.heads} * D;
  const float factors[2] = {args.scale, args.scale};
  tiles::store_rows<D>(dx1, factors, gradient_of(args, begin, head, kOfKeys ? 1 : 0), stride, row, length, args.adds);
  if constexpr (kOfKeys) {
    const float ones[2] = {1.0F, 1.0F};
    tiles::store_rows<D>(dx2, ones, gradient_of(args, begin, head, 2), stride, row, length, args.adds);
  }
}

/// A head's rows in shared memory.
struct ResidentHead {
  const BFloat16 *q, *k, *v, *d_out;
  const float *exponents, *deltas;
};

/// The gradients of 16 rows of a head that is in shared memory.
template <int D, bool kOfKeys>
__device__ __forceinline__ void resident_rows(const Backward<BFloat16>& args, const ResidentHead& x, int begin,
                                              int head, int row, int length) {
  unsigned x1[D / 16][4];
  unsigned x2[D / 16][4];
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    tiles::Rows<D>::load_left((kOfKeys ? x.k : x.q) + row * D, step, x1[step]);
    tiles::Rows<D>::load_left((kOfKeys ? x.v : x.d_out) + row * D, step, x2[step]);
  }
  const BFloat16* y1 = kOfKeys ? x.q : x.k;
  const BFloat16* y2 = kOfKeys ? x.d_out : x.v;
  float exponents[2];
  float deltas[2];
  if constexpr (!kOfKeys) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int mine = row + static_cast<int>(threadIdx.x % kWarpSize / 4) + half * 8;
      exponents[half] = x.exponents[mine];
      deltas[half] = x.deltas[mine];
    }
  }
  float dx1[D / 8][4] = {};
  float dx2[D / 8][4] = {};
  for (int column = 0; column < length; column += kTile) {
    add_columns<D, kOfKeys>(x1, x2, y1 + column * D, y2 + column * D, kOfKeys ? x.exponents + column : exponents,
                            kOfKeys ? x.deltas + column : deltas, length - column, args.exp2_scale, dx1, dx2);
  }
  store_gradients<D, kOfKeys>(args, begin, head, row, length, dx1, dx2);
}

inline constexpr int kBackwardWarps = 6;  // two blocks leave 168 registers for a thread

/// Queries, keys, values and d_out of some heads of a sequence stay in shared memory; a warp takes 16 keys and values,
/// or 16 queries, at a time. Blocks as in forward_resident.
template <int D>
__global__ void __launch_bounds__(kBackwardWarps* kWarpSize, 2) backward_resident(const Backward<BFloat16> args) {
  using Tile = tiles::Rows<D>;
  const int sequence = static_cast<int>(blockIdx.x) / args.heads;
  const int begin = args.offsets[sequence];
  const int length = args.offsets[sequence + 1] - begin;
  if (length <= 0) return;
  const int count = (length + kTile - 1) / kTile;
  const int padded = count * kTile;
  const tiles::HeadGroup group(static_cast<int>(blockIdx.x) % args.heads, args.heads, padded, args.capacity);
  if (group.count <= 0) return;

  BFloat16* shared = &shared_memory<BFloat16>();  // (4, capacity, D): q, k, v, d_out
  const int size = args.capacity * D;
  float* exponents = reinterpret_cast<float*>(shared + 4 * size);
  float* deltas = exponents + args.capacity;
  const std::int64_t width = std::int64_t{args.heads} * D;
  for (int h = 0; h < group.count; ++h) {
    const std::int64_t column = (group.first + h) * D;
    BFloat16* to = shared + h * padded * D;
    const BFloat16* qkv = args.qkv + begin * 3 * width + column;
#pragma unroll
    for (int part = 0; part < 3; ++part) Tile::copy(qkv + part * width, 3 * width, length, padded, to + part * size);
    Tile::copy(args.d_out + begin * width + column, width, length, padded, to + 3 * size);
  }
  cp_async_commit();
  for (int h = 0; h < group.count; ++h) {
    const std::int64_t column = (group.first + h) * D;
    for (int i = static_cast<int>(threadIdx.x); i < padded * Tile::kPacks; i += kBackwardWarps * kWarpSize) {
      const int row = i / Tile::kPacks;
      const int pack = i % Tile::kPacks;
      float delta = 0;
      if (row < length) {
        const std::int64_t at = (begin + row) * width + column + pack * 8;
        float a[8];
        float b[8];
        load(args.out + at, a);
        load(args.d_out + at, b);
#pragma unroll
        for (int k = 0; k < 8; ++k) delta += a[k] * b[k];
      }
#pragma unroll
      for (int distance = Tile::kPacks / 2; distance > 0; distance /= 2) {
        delta += __shfl_xor_sync(kWholeWarp, delta, distance);
      }
      if (pack != 0) continue;
      deltas[h * padded + row] = delta;
      exponents[h * padded + row] = exponent_of(args, group.first + h, begin, row, length);
    }
  }
  cp_async_wait<0>();
  __syncthreads();

  const int items = group.count * count;
  for (int item = static_cast<int>(threadIdx.x / kWarpSize); item < 2 * items; item += kBackwardWarps) {
    const bool of_keys = item < items;  // first, as they take longer
    const int at = of_keys ? item : item - items;
    const int h = at / count;
    const int row = at % count * kTile;
    const BFloat16* q = shared + h * padded * D;
    const ResidentHead x{.q = q,
                         .k = q + size,
                         .v = q + 2 * size,
                         .d_out = q + 3 * size,
                         .exponents = exponents + h * padded,
                         .deltas = deltas + h * padded};
    if (of_keys) {
      resident_rows<D, true>(args, x, begin, group.first + h, row, length);
    } else {
      resident_rows<D, false>(args, x, begin, group.first + h, row, length);
    }
  }
}

/// A block takes 64 keys or queries of one head and streams over the queries or keys, 64 at a time.
template <int D, bool kOfKeys>
__global__ void __launch_bounds__(kStreamWarps* kWarpSize, 2) backward_streaming(const Backward<BFloat16> args) {
  using Tile = tiles::Rows<D>;
  const int head = static_cast<int>(blockIdx.x) % args.heads;
  const tiles::Place place =
      tiles::find_part(args.offsets, args.sequences, kStreamRows, static_cast<int>(blockIdx.x) / args.heads);
  if (place.length == 0) return;
  BFloat16* shared = &shared_memory<BFloat16>();  // two stages of y1 and y2, then of exponents and deltas
  constexpr int kSize = kStreamRows * D;
  float* statistics = reinterpret_cast<float*>(shared + 4 * kSize);
  const std::int64_t width = std::int64_t{args.heads} * D;
  const BFloat16* q = args.qkv + place.begin * 3 * width + head * D;
  const BFloat16* d_out = args.d_out + place.begin * width + head * D;
  const auto delta_of = [&](int row) {
    return row < place.length ? args.delta[head * args.rows + place.begin + row] : 0.0F;
  };
  const auto start = [&](int column) {
    if (column < place.length) {
      const int stage = column / kStreamRows % 2;
      const int valid = place.length - column;
      BFloat16* to = shared + stage * 2 * kSize;
      Tile::copy(q + (kOfKeys ? 0 : width) + column * 3 * width, 3 * width, valid, kStreamRows, to);
      if (kOfKeys) {
        Tile::copy(d_out + column * width, width, valid, kStreamRows, to + kSize);
        if (threadIdx.x < kStreamRows) {
          const int row = column + static_cast<int>(threadIdx.x);
          float* statistic = statistics + stage * 2 * kStreamRows + threadIdx.x;
          statistic[0] = exponent_of(args, head, place.begin, row, place.length);
          statistic[kStreamRows] = delta_of(row);
        }
      } else {
        Tile::copy(q + 2 * width + column * 3 * width, 3 * width, valid, kStreamRows, to + kSize);
      }
    }
    cp_async_commit();
  };
  start(0);
  const int row = place.row + static_cast<int>(threadIdx.x / kWarpSize) * kTile;
  unsigned x1[D / 16][4];
  unsigned x2[D / 16][4];
  tiles::load_left<D>(q + (kOfKeys ? width : 0), 3 * width, row, place.length, x1);
  if (kOfKeys) {
    tiles::load_left<D>(q + 2 * width, 3 * width, row, place.length, x2);
  } else {
    tiles::load_left<D>(d_out, width, row, place.length, x2);
  }
  float exponents[2];
  float deltas[2];
  if constexpr (!kOfKeys) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int mine = row + static_cast<int>(threadIdx.x % kWarpSize / 4) + half * 8;
      exponents[half] = exponent_of(args, head, place.begin, mine, place.length);
      deltas[half] = delta_of(mine);
    }
  }
  float dx1[D / 8][4] = {};
  float dx2[D / 8][4] = {};
  for (int column = 0; column < place.length; column += kStreamRows) {
    start(column + kStreamRows);
    cp_async_wait<1>();
    __syncthreads();
    const int stage = column / kStreamRows % 2;
    const BFloat16* y = shared + stage * 2 * kSize;
    const float* statistic = statistics + stage * 2 * kStreamRows;
    for (int j = 0; j < kStreamRows; j += kTile) {
      add_columns<D, kOfKeys>(x1, x2, y + j * D, y + kSize + j * D, kOfKeys ? statistic + j : exponents,
                              kOfKeys ? statistic + kStreamRows + j : deltas, place.length - column - j,
                              args.exp2_scale, dx1, dx2);
    }
    __syncthreads();
  }
  store_gradients<D, kOfKeys>(args, place.begin, head, row, place.length, dx1, dx2);
}

}  // namespace dino::cuda::attention
