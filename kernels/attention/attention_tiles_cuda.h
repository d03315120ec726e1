#pragma once

#include "kernels/common/cuda/mma.h"

#include <cstdint>

// What the attention kernels share: tiles of a head's rows in shared memory, the operands that warps take from there to
// the tensor cores, and the part of the work that is a block's. A warp works on 16 rows; lane = 4·group + pair holds of
// them rows group and group + 8.

namespace dino::cuda::tiles {

inline constexpr int kTile = 16;

// Blocks that stream over a sequence.
inline constexpr int kStreamWarps = 4;
inline constexpr int kStreamRows = kStreamWarps * kTile;  // rows of a block, and columns that it holds at a time

/// Rows of D bf16 numbers in shared memory, in packs of 16 bytes. A pack's place within its row is exclusive-ored with
/// the row (for D = 32, with half of it: two rows fill the 128 bytes of the banks), so that the eight packs of a column
/// of packs, which ldmatrix reads at once, lie in different banks, as do those of a row, which are written at once.
template <int D>
struct Rows {
  static_assert(D == 32 || D == 64);
  static constexpr int kPacks = D / 8;

  __device__ static __forceinline__ int at(int row, int pack) {
    return row * D + (pack ^ (D == 64 ? row & 7 : row >> 1 & 3)) * 8;
  }

  /// Starts copying `rows` rows that lie `stride` elements apart, zeros from row `valid` (at least 1) on; all threads
  /// of the block take part.
  __device__ static __forceinline__ void copy(const BFloat16* from, std::int64_t stride, int valid, int rows,
                                              BFloat16* to) {
    for (int i = static_cast<int>(threadIdx.x); i < rows * kPacks; i += static_cast<int>(blockDim.x)) {
      const int row = i / kPacks;
      const int pack = i % kPacks;
      const bool there = row < valid;
      cp_async_16(to + at(row, pack), from + (there ? row : 0) * stride + pack * 8, there ? 16 : 0);
    }
  }

  /// Left operand of 16 rows, with their columns from 16·step on for depth. `tile`: of a row that is a multiple of 16,
  /// as below.
  __device__ static __forceinline__ void load_left(const BFloat16* tile, int step, unsigned (&a)[4]) {
    const int lane = static_cast<int>(threadIdx.x % kWarpSize);
    ldmatrix_x4(tile + at(lane & 15, 2 * step + (lane >> 4)), a);
  }

  /// Right operands of two mma that together multiply by the transpose of 16 rows: columns are the rows, depth is their
  /// columns from 16·step on. The first takes b[0], b[1], the second b[2], b[3].
  __device__ static __forceinline__ void load_transposed(const BFloat16* tile, int step, unsigned (&b)[4]) {
    const int lane = static_cast<int>(threadIdx.x % kWarpSize);
    ldmatrix_x4(tile + at((lane >> 4) * 8 + (lane & 7), 2 * step + (lane >> 3 & 1)), b);
  }

  /// Right operands of two mma that multiply by 16 rows as they lie: depth is the rows, columns are those from 16·step
  /// on, eight for each.
  __device__ static __forceinline__ void load(const BFloat16* tile, int step, unsigned (&b)[4]) {
    const int lane = static_cast<int>(threadIdx.x % kWarpSize);
    ldmatrix_x4_trans(tile + at(lane & 15, 2 * step + (lane >> 4)), b);
  }
};

/// Exchanges word i of lane `pair` with word `pair` of lane i among four neighbouring lanes.
__device__ __forceinline__ void transpose_quad(unsigned (&words)[4]) {
  const bool odd = threadIdx.x % 2 != 0;
  const bool high = threadIdx.x % 4 >= 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const unsigned got = __shfl_xor_sync(kWholeWarp, odd ? words[i] : words[i + 1], 1);
    (odd ? words[i] : words[i + 1]) = got;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const unsigned got = __shfl_xor_sync(kWholeWarp, high ? words[i] : words[i + 2], 2);
    (high ? words[i] : words[i + 2]) = got;
  }
}

/// Left operands of the products of 16 rows from `row` on, in global memory, with D / 16 steps of depth; rows from
/// `valid` on are zero. Lanes read packs of 16 bytes and exchange them.
template <int D>
__device__ __forceinline__ void load_left(const BFloat16* from, std::int64_t stride, int row, int valid,
                                          unsigned (&a)[D / 16][4]) {
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int mine = row + lane / 4 + half * 8;
#pragma unroll
    for (int quarter = 0; quarter < D / 32; ++quarter) {
      unsigned words[4] = {};
      if (mine < valid) load_16_bytes(from + mine * stride + quarter * 32 + lane % 4 * 8, words);
      transpose_quad(words);
#pragma unroll
      for (int i = 0; i < 4; ++i) a[2 * quarter + i / 2][i % 2 * 2 + half] = words[i];
    }
  }
}

/// Writes 16 rows from `row` on, times `factors` (of row group and of row group + 8), to global memory, or adds them to
/// what is there; rows from `valid` on are left out.
template <int D>
__device__ __forceinline__ void store_rows(const float (&sums)[D / 8][4], const float (&factors)[2], BFloat16* to,
                                           std::int64_t stride, int row, int valid, bool adds) {
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int mine = row + lane / 4 + half * 8;
#pragma unroll
    for (int quarter = 0; quarter < D / 32; ++quarter) {
      unsigned words[4];
      if (!adds) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float(&sum)[4] = sums[4 * quarter + i];
          words[i] = pack_bf16(sum[2 * half] * factors[half], sum[2 * half + 1] * factors[half]);
        }
        transpose_quad(words);
        if (mine < valid) store_16_bytes(words, to + mine * stride + quarter * 32 + lane % 4 * 8);
        continue;
      }
      // Sums stay fp32 until what is there is added: each lane reads a pack and gets its share of it, as load_left
      // does.
      words[0] = words[1] = words[2] = words[3] = 0;
      BFloat16* place = to + mine * stride + quarter * 32 + lane % 4 * 8;
      if (mine < valid) load_16_bytes(place, words);
      transpose_quad(words);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&sum)[4] = sums[4 * quarter + i];
        words[i] = pack_bf16(__uint_as_float(words[i] << 16) + sum[2 * half] * factors[half],
                             __uint_as_float(words[i] & 0xffff0000U) + sum[2 * half + 1] * factors[half]);
      }
      transpose_quad(words);
      if (mine < valid) store_16_bytes(words, place);
    }
  }
}

/// Adds the scores of 16 queries, whose left operands are `q`, and 16 keys.
template <int D>
__device__ __forceinline__ void add_scores(const unsigned (&q)[D / 16][4], const BFloat16* keys,
                                           float (&scores)[2][4]) {
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    unsigned b[4];
    Rows<D>::load_transposed(keys, step, b);
    mma_m16n8k16(scores[0], q[step], b[0], b[1]);
    mma_m16n8k16(scores[1], q[step], b[2], b[3]);
  }
}

/// sums += p x for 16 rows of x, p as left operand.
template <int D>
__device__ __forceinline__ void add_product(const unsigned (&p)[4], const BFloat16* x, float (&sums)[D / 8][4]) {
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    unsigned b[4];
    Rows<D>::load(x, step, b);
    mma_m16n8k16(sums[2 * step], p, b[0], b[1]);
    mma_m16n8k16(sums[2 * step + 1], p, b[2], b[3]);
  }
}

/// The accumulators of a (16, 16) product as the left operand of the next.
__device__ __forceinline__ void as_left(const float (&x)[2][4], unsigned (&a)[4]) {
  a[0] = pack_bf16(x[0][0], x[0][1]);
  a[1] = pack_bf16(x[0][2], x[0][3]);
  a[2] = pack_bf16(x[1][0], x[1][1]);
  a[3] = pack_bf16(x[1][2], x[1][3]);
}

/// The heads of a sequence that one block takes: as many as fit into its shared memory, evenly shared.
struct HeadGroup {
  int first, count;

  __device__ HeadGroup(int group, int heads, int rows, int capacity) {
    const int most = capacity / rows;
    const int groups = (heads + most - 1) / most;
    const int share = (heads + groups - 1) / groups;
    first = group * share;
    count = group < groups ? (heads - first < share ? heads - first : share) : 0;
  }
};

/// A sequence and the part of it that a block works on.
struct Place {
  int begin = 0;   // first row of the sequence
  int length = 0;  // of the sequence; 0: nothing to do
  int row = 0;     // of the sequence, where the part begins
};

/// The part of `rows` rows that has this number, where sequence s has the numbers from offsets[s] / rows + s on: enough
/// for all its parts, with at most one too many. A warp searches in 32 places at once. There are offsets[S] / rows + S
/// numbers.
__device__ __forceinline__ Place find_part(const std::int32_t* offsets, int sequences, int rows, int number) {
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  int low = 0;
  int high = sequences;
  while (high - low > 1) {
    const int step = (high - low + kWarpSize - 1) / kWarpSize;
    const int candidate = low + step * lane;
    const bool before = candidate < high && offsets[candidate] / rows + candidate <= number;
    low += step * (__popc(__ballot_sync(kWholeWarp, before)) - 1);
    high = low + step < high ? low + step : high;
  }
  const int begin = offsets[low];
  const int length = offsets[low + 1] - begin;
  const int row = (number - (begin / rows + low)) * rows;
  return {.begin = begin, .length = row < length ? length : 0, .row = row};
}

}  // namespace dino::cuda::tiles
