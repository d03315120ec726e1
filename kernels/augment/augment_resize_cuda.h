#pragma once

#include "kernels/augment/augment.h"
#include "kernels/augment/augment_block_cuda.h"

#include <algorithm>
#include <cstdint>

// A crop's resize: the output is cut into tiles. For each, the weights of its columns and rows are computed in double,
// as Pillow does, then the rows of the box that it needs are resized along x into working memory, then along y into the
// crop. Rows shared by two bands of tiles are resized twice: 4 / (rows of a band) more work. The tile's size follows
// from the box and the working memory; where not even one pixel fits, each thread computes its pixel's weights as it
// goes.

namespace dino::cuda::augment {

inline constexpr int kWeightBits = 22;
inline constexpr int kMaxTileWidth = 64;

inline __device__ void set_axis(Axis& axis, int source, int resized, int window, int outputs, bool reversed,
                                ResizeFilter filter) {
  axis.copied = source == resized;
  axis.bicubic = filter == ResizeFilter::bicubic;
  axis.reversed = reversed;
  axis.source = source;
  axis.window = window;
  axis.outputs = outputs;
  axis.scale = static_cast<double>(source) / static_cast<double>(resized);
  const double stretch = axis.scale > 1.0 ? axis.scale : 1.0;
  axis.support = axis.copied ? 0.0 : (axis.bicubic ? 2.0 : 1.0) * stretch;
  axis.shrink = 1.0 / stretch;
  axis.taps = axis.copied ? 1 : std::min(source, 2 * static_cast<int>(ceil(axis.support)) + 1);
}

/// The source pixels [begin, end) of one output, and where it lies among them.
struct Taps {
  double center;
  int begin, end;
};

__device__ __forceinline__ Taps taps_of(const Axis& axis, int output) {
  const int at = axis.window + (axis.reversed ? axis.outputs - 1 - output : output);
  Taps taps;
  taps.center = __dmul_rn(static_cast<double>(at) + 0.5, axis.scale);
  taps.begin = axis.copied ? at : std::max(0, static_cast<int>(taps.center - axis.support + 0.5));
  taps.end = axis.copied ? at + 1 : std::min(axis.source, static_cast<int>(taps.center + axis.support + 0.5));
  return taps;
}

/// The same factored polynomials as Pillow's.
__device__ __forceinline__ double filter_value(const Axis& axis, double center, int source) {
  if (axis.copied) return 1.0;
  const double x = fabs(__dmul_rn(static_cast<double>(source) - center + 0.5, axis.shrink));
  if (!axis.bicubic) return x < 1.0 ? 1.0 - x : 0.0;
  if (x < 1.0) return __dmul_rn(__dmul_rn(__dmul_rn(1.5, x) - 2.5, x), x) + 1.0;
  if (x < 2.0) return __dmul_rn(__dmul_rn(__dmul_rn(x - 5.0, x) + 8.0, x) - 4.0, -0.5);
  return 0.0;
}

__device__ __forceinline__ int weight_of(const Axis& axis, double center, double sum, int source) {
  const double value = __dmul_rn(filter_value(axis, center, source) / sum, 1 << kWeightBits);
  return static_cast<int>(value < 0 ? value - 0.5 : value + 0.5);
}

/// In the order of the pixels, which the last bit depends on.
inline __device__ double sum_of_taps(const Axis& axis, int output) {
  const Taps taps = taps_of(axis, output);
  double sum = 0;
  for (int i = taps.begin; i < taps.end; ++i) sum += filter_value(axis, taps.center, i);
  return sum;
}

__device__ __forceinline__ int rounded(int sum) { return std::min(std::max(sum >> kWeightBits, 0), 255); }

/// Weights of `count` outputs in working memory.
struct Table {
  int* weights;  // (taps, count)
  int* begins;   // (count)
  int* counts;   // (count)
  int count;

  __device__ Table(int* words, int taps, int outputs)
      : weights(words), begins(words + taps * outputs), counts(begins + outputs), count(outputs) {}
  __device__ int* end() const { return counts + count; }

  __device__ void fill(const Axis& axis, const double* sums, int first) const {
    each(count * axis.taps, [&](int i) {
      const int tap = i / count;
      const int output = i - tap * count;
      const Taps taps = taps_of(axis, first + output);
      if (tap == 0) {
        begins[output] = taps.begin;
        counts[output] = taps.end - taps.begin;
      }
      if (taps.begin + tap < taps.end) {
        weights[i] = weight_of(axis, taps.center, sums[first + output], taps.begin + tap);
      }
    });
  }

  /// Three channels of output i: pixels `step` bytes apart from `from` on.
  __device__ __forceinline__ void weigh(int i, const std::uint8_t* from, int step, std::uint8_t* to) const {
    int r = 1 << (kWeightBits - 1);
    int g = r;
    int b = r;
    const int* weight = weights + i;
    for (int left = counts[i]; left > 0; --left, from += step, weight += count) {
      r += *weight * from[0];
      g += *weight * from[1];
      b += *weight * from[2];
    }
    to[0] = static_cast<std::uint8_t>(rounded(r));
    to[1] = static_cast<std::uint8_t>(rounded(g));
    to[2] = static_cast<std::uint8_t>(rounded(b));
  }
};

struct Tile {
  int width, height;
};

/// The widest tile, at least as high as wide if it can be, whose tables and rows fit into working memory; width 0: none
/// does. n outputs along y need at most (n - 1) · scale + 2 · support + 1 rows; two more make up for fp32's rounding.
inline __device__ Tile choose_tile(const Axis& x, const Axis& y, int work_bytes) {
  const auto scale = static_cast<float>(y.scale);
  const float more_rows = 2 * static_cast<float>(y.support) + 3;
  for (int width = kMaxTileWidth; width > 0; width /= 2) {
    const int columns = std::min(width, x.outputs);
    const auto row_bytes = static_cast<float>(3 * columns);
    const float fixed = static_cast<float>(columns) * static_cast<float>(4 * (x.taps + 2)) + more_rows * row_bytes;
    const float per_output = static_cast<float>(4 * (y.taps + 2)) + scale * row_bytes;
    const float height = (static_cast<float>(work_bytes) - fixed) / per_output;
    if (height >= static_cast<float>(std::min(width, y.outputs))) {
      return {columns, static_cast<int>(std::min(height, static_cast<float>(y.outputs)))};
    }
  }
  return {0, 0};
}

/// `source` is the box's first byte, `pitch` the bytes from row to row. Ends with a barrier.
inline __device__ void resize_tiles(const Axis& x, const Axis& y, const double* sums_x, const double* sums_y,
                                    const std::uint8_t* source, std::int64_t pitch, const Tile& tile,
                                    std::uint8_t* work, std::uint8_t* crop) {
  for (int top = 0; top < y.outputs; top += tile.height) {
    const int height = std::min(tile.height, y.outputs - top);
    const Table rows(reinterpret_cast<int*>(work), y.taps, height);
    rows.fill(y, sums_y, top);
    const int first_row = taps_of(y, top).begin;
    const int row_count = taps_of(y, top + height - 1).end - first_row;
    const std::uint8_t* band = source + first_row * pitch;
    for (int left = 0; left < x.outputs; left += tile.width) {
      const int width = std::min(tile.width, x.outputs - left);
      const Table columns(rows.end(), x.taps, width);
      columns.fill(x, sums_x, left);
      auto* resized = reinterpret_cast<std::uint8_t*>(columns.end());  // (row_count, width, 3)
      __syncthreads();
      each(row_count * width, [&](int i) {
        const int row = i / width;
        const int column = i - row * width;
        columns.weigh(column, band + row * pitch + 3 * columns.begins[column], 3, resized + 3 * i);
      });
      __syncthreads();
      each(height * width, [&](int i) {
        const int row = i / width;
        const int column = i - row * width;
        rows.weigh(row, resized + 3 * ((rows.begins[row] - first_row) * width + column), 3 * width,
                   crop + 3 * ((top + row) * x.outputs + left + column));
      });
      __syncthreads();
    }
  }
}

/// Without working memory: weights are computed where they are needed. Ends with a barrier.
inline __device__ void resize_pixels(const Axis& x, const Axis& y, const double* sums_x, const double* sums_y,
                                     const std::uint8_t* source, std::int64_t pitch, std::uint8_t* crop) {
  each(y.outputs * x.outputs, [&](int i) {
    const int row = i / x.outputs;
    const int column = i - row * x.outputs;
    const Taps down = taps_of(y, row);
    const Taps across = taps_of(x, column);
    constexpr int kHalf = 1 << (kWeightBits - 1);
    int sum[3] = {kHalf, kHalf, kHalf};
#pragma unroll 1
    for (int from_y = down.begin; from_y < down.end; ++from_y) {
      int part[3] = {kHalf, kHalf, kHalf};
#pragma unroll 1  // registers are short
      for (int from_x = across.begin; from_x < across.end; ++from_x) {
        const int weight = weight_of(x, across.center, sums_x[column], from_x);
        const std::uint8_t* from = source + from_y * pitch + 3 * from_x;
#pragma unroll
        for (int c = 0; c < 3; ++c) part[c] += weight * from[c];
      }
      const int weight = weight_of(y, down.center, sums_y[row], from_y);
#pragma unroll
      for (int c = 0; c < 3; ++c) sum[c] += weight * rounded(part[c]);
    }
#pragma unroll
    for (int c = 0; c < 3; ++c) crop[3 * i + c] = static_cast<std::uint8_t>(rounded(sum[c]));
  });
  __syncthreads();
}

}  // namespace dino::cuda::augment
