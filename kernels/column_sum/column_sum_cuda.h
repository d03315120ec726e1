#pragma once

#include "kernels/common/cuda/launch.h"
#include "kernels/common/gradient_mode.h"

#include <algorithm>

namespace dino::cuda {

/// Column sums of (rows, columns) values that another computation yields on the way: blocks of rows are summed into
/// `partial`, and these in their order. Blocks are cut by the number of rows alone, so every bit is the same every
/// time.
struct ColumnBlocks {
  ColumnBlocks(std::int64_t rows_, std::int64_t columns_)
      : rows(rows_),
        columns(static_cast<int>(columns_)),
        height(std::max<std::int64_t>(64, (rows + 255) / 256)),
        count((rows + height - 1) / height) {}

  std::size_t partial_bytes() const {
    return static_cast<std::size_t>(count) * static_cast<std::size_t>(columns) * sizeof(float);
  }

  std::int64_t rows;
  int columns;
  std::int64_t height;
  std::int64_t count;
};

inline constexpr int kColumnGroups = 8;  // warps that share the rows of a block
inline constexpr int kColumnThreads = kColumnGroups * kWarpSize;

/// Where a body begins.
struct ColumnPlace {
  std::int64_t row;
  int column;
  std::int64_t at;  // row · columns + column
};

template <int N>
struct ColumnShared {
  float sums[kColumnGroups][kWarpSize * N];
};

/// `body({row, column, at}, values)` yields N values of a row from a column on, which are elements from `at` on. Warps
/// take rows in turn, lanes neighbouring packs of columns; the warps' sums meet in shared memory.
template <int N, typename Body>
__global__ void __launch_bounds__(kColumnThreads)
    sum_row_blocks(const Body body, std::int64_t rows, int columns, std::int64_t height, float* partial) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int group = static_cast<int>(threadIdx.x) / kWarpSize;
  const int column = (static_cast<int>(blockIdx.x) * kWarpSize + lane) * N;
  const std::int64_t begin = blockIdx.y * height;
  const std::int64_t end = begin + height < rows ? begin + height : rows;
  float sums[N] = {};
  if (column < columns) {
    for (std::int64_t row = begin + group; row < end; row += kColumnGroups) {
      float values[N];
      body({row, column, row * columns + column}, values);
#pragma unroll
      for (int i = 0; i < N; ++i) sums[i] += values[i];
    }
  }
  auto& shared = shared_memory<ColumnShared<N>>();
#pragma unroll
  for (int i = 0; i < N; ++i) shared.sums[group][lane * N + i] = sums[i];
  __syncthreads();
  if (group != 0 || column >= columns) return;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    sums[i] = 0;
    for (int g = 0; g < kColumnGroups; ++g) sums[i] += shared.sums[g][lane * N + i];
  }
  store(sums, partial + std::int64_t{blockIdx.y} * columns + column);
}

inline constexpr int kPartialGroups = 16;  // warps, at most, that share the partial sums of 32 columns

/// Where column sums go.
struct ColumnTarget {
  float* out;  // (columns) fp32; null: not wanted
  bool adds;
};

inline ColumnTarget column_target(const Array& out, GradientMode mode) {
  return {.out = wanted<float>(out, mode), .adds = mode == GradientMode::accumulate};
}

/// Block (32 columns, target): out[c] (+)= Σ over blocks of partial[block · stride + target · columns + c]. Warps take
/// the blocks in turn, many loads at a time; their sums meet in shared memory and are added in order.
template <int kMostGroups>
__global__ void __launch_bounds__(kMostGroups* kWarpSize)
    add_partials(const float* __restrict__ partial, int blocks, int stride, int columns, ColumnTarget first,
                 ColumnTarget second) {
  const ColumnTarget target = blockIdx.y == 0 ? first : second;
  if (target.out == nullptr) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int group = static_cast<int>(threadIdx.x) / kWarpSize;
  const int groups = static_cast<int>(blockDim.x) / kWarpSize;
  const int column = static_cast<int>(blockIdx.x) * kWarpSize + lane;
  float sum = 0;
  if (column < columns) {
    partial += std::int64_t{blockIdx.y} * columns + column;
#pragma unroll 16
    for (int block = group; block < blocks; block += groups) sum += partial[std::int64_t{block} * stride];
  }
  float* shared = &shared_memory<float>();  // (groups, 32)
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (group != 0 || column >= columns) return;
  for (int g = 1; g < groups; ++g) sum += shared[g * kWarpSize + lane];
  target.out[column] = target.adds ? target.out[column] + sum : sum;
}

/// Adds the rows of `partial` up, which lie `stride` apart: `columns` for `first`, then as many for `second`.
inline void launch_add_partials(const float* partial, std::int64_t blocks, std::int64_t stride, std::int64_t columns,
                                ColumnTarget first, ColumnTarget second, Stream& stream) {
  if (first.out == nullptr && second.out == nullptr) return;
  const unsigned threads = static_cast<unsigned>(std::clamp<std::int64_t>(blocks, 1, kPartialGroups)) * kWarpSize;
  launch(add_partials<kPartialGroups>,
         {dim3(blocks_for(columns, kWarpSize), second.out == nullptr ? 1 : 2), threads, threads * sizeof(float)},
         stream, partial, static_cast<int>(blocks), static_cast<int>(stride), static_cast<int>(columns), first, second);
}

/// Runs `body` over all elements and puts the column sums of what it yields into `out` (columns) fp32.
template <int N, typename Body>
void sum_columns(const Body& body, const ColumnBlocks& blocks, float* partial, const Array& out, GradientMode mode,
                 Stream& stream) {
  const dim3 grid(blocks_for(blocks.columns, kWarpSize * N), static_cast<unsigned>(blocks.count));
  launch(sum_row_blocks<N, Body>, {grid, kColumnThreads, sizeof(ColumnShared<N>)}, stream, body, blocks.rows,
         blocks.columns, blocks.height, partial);
  launch_add_partials(partial, blocks.count, blocks.columns, blocks.columns, column_target(out, mode), {}, stream);
}

}  // namespace dino::cuda
