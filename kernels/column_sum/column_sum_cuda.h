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

template <int N>
struct ColumnShared {
  float sums[kColumnGroups][kWarpSize * N];
};

/// `body(at, values)` yields N values that begin at element `at`. Warps take rows in turn, lanes neighbouring packs of
/// columns; the warps' sums meet in shared memory.
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
      body(row * columns + column, values);
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
    float sum = 0;
    for (int g = 0; g < kColumnGroups; ++g) sum += shared.sums[g][lane * N + i];
    partial[std::int64_t{blockIdx.y} * columns + column + i] = sum;
  }
}

/// out[c] (+)= Σ over blocks of partial[block · stride + c], in the order of the blocks.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    add_partials(const float* __restrict__ partial, int blocks, int stride, int columns, float* out, bool adds) {
  const int column = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (column >= columns) return;
  float sum = 0;
  for (int block = 0; block < blocks; ++block) sum += partial[std::int64_t{block} * stride + column];
  out[column] = adds ? out[column] + sum : sum;
}

inline void launch_add_partials(const float* partial, std::int64_t blocks, std::int64_t stride, std::int64_t columns,
                                const Array& out, GradientMode mode, Stream& stream) {
  if (mode == GradientMode::ignore) return;
  constexpr int kThreads = 128;
  launch(add_partials<kThreads>, {blocks_for(columns, kThreads), kThreads}, stream, partial, static_cast<int>(blocks),
         static_cast<int>(stride), static_cast<int>(columns), out.as<float>(), mode == GradientMode::accumulate);
}

/// Runs `body` over all elements and puts the column sums of what it yields into `out` (columns) fp32.
template <int N, typename Body>
void sum_columns(const Body& body, const ColumnBlocks& blocks, float* partial, const Array& out, GradientMode mode,
                 Stream& stream) {
  const dim3 grid(blocks_for(blocks.columns, kWarpSize * N), static_cast<unsigned>(blocks.count));
  launch(sum_row_blocks<N, Body>, {grid, kColumnThreads, sizeof(ColumnShared<N>)}, stream, body, blocks.rows,
         blocks.columns, blocks.height, partial);
  launch_add_partials(partial, blocks.count, blocks.columns, blocks.columns, out, mode, stream);
}

}  // namespace dino::cuda
