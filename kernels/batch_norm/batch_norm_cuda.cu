#include "kernels/batch_norm/batch_norm.h"
#include "kernels/column_sum/column_sum_cuda.h"

// Two forms cover the five steps.
//   sum_rows     one or two sums per column: warps take rows in turn, lanes neighbouring packs of columns; warps meet
//   in
//                shared memory, blocks of rows in finish_columns, always in the same order.
//   map_rows     every element from its column's constants, which a thread computes once and keeps in registers.
// Bytes for 320 rows of 2048 in bf16: 1.3 MB a reading or writing; forward has three readings and a writing, backward
// two times two and one, all from L2. Bound by latency and launches at this size, by memory at larger ones; there are
// no atomics. Numerics: fp32, the squares are those of the centred values. Reference: batch_norm_reference.cpp.

namespace dino::cuda {
namespace {

constexpr int kRowsPerBlock = 16;  // of map_rows
constexpr int kFinishThreads = 128;

/// This thread's first column, and its warp's place among those that share a block's rows.
template <int N>
__device__ __forceinline__ int own_column() {
  return (static_cast<int>(blockIdx.x) * kWarpSize + static_cast<int>(threadIdx.x) % kWarpSize) * N;
}
__device__ __forceinline__ int own_group() { return static_cast<int>(threadIdx.x) / kWarpSize; }

template <int N, int kSums>
struct RowSumsShared {
  float sums[kColumnGroups][kSums][kWarpSize * N];
};

/// partial (blocks of rows, kSums, C). A body's begin(column) gets a column's constants, add(at, sums) adds an element.
template <int N, int kSums, typename Body>
__global__ void __launch_bounds__(kColumnThreads)
    sum_rows(const Body body, std::int64_t rows, int columns, std::int64_t height, float* partial) {
  const int column = own_column<N>();
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const std::int64_t begin = blockIdx.y * height;
  const std::int64_t end = begin + height < rows ? begin + height : rows;
  float sums[kSums][N] = {};
  if (column < columns) {
    Body own = body;
    own.begin(column);
    for (std::int64_t row = begin + own_group(); row < end; row += kColumnGroups) own.add(row * columns + column, sums);
  }
  auto& shared = shared_memory<RowSumsShared<N, kSums>>();
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
#pragma unroll
    for (int i = 0; i < N; ++i) shared.sums[own_group()][s][lane * N + i] = sums[s][i];
  }
  __syncthreads();
  if (own_group() != 0 || column >= columns) return;
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      float sum = 0;
      for (int g = 0; g < kColumnGroups; ++g) sum += shared.sums[g][s][lane * N + i];
      partial[(std::int64_t{blockIdx.y} * kSums + s) * columns + column + i] = sum;
    }
  }
}

/// Adds the blocks of rows up and calls finish(column, sums).
template <int kSums, typename Finish>
__global__ void __launch_bounds__(kFinishThreads)
    finish_columns(const float* partial, int blocks, int columns, const Finish finish) {
  const int column = static_cast<int>(blockIdx.x * kFinishThreads + threadIdx.x);
  if (column >= columns) return;
  float sums[kSums] = {};
  for (int block = 0; block < blocks; ++block) {
#pragma unroll
    for (int s = 0; s < kSums; ++s) sums[s] += partial[(std::int64_t{block} * kSums + s) * columns + column];
  }
  finish(column, sums);
}

/// A body's begin(column) gets a column's constants, step(at) does an element.
template <int N, typename Body>
__global__ void __launch_bounds__(kColumnThreads) map_rows(const Body body, std::int64_t rows, int columns) {
  const int column = own_column<N>();
  if (column >= columns) return;
  const std::int64_t begin = std::int64_t{blockIdx.y} * kRowsPerBlock;
  const std::int64_t end = begin + kRowsPerBlock < rows ? begin + kRowsPerBlock : rows;
  Body own = body;
  own.begin(column);
  for (std::int64_t row = begin + own_group(); row < end; row += kColumnGroups) own.step(row * columns + column);
}

template <int N, int kSums, typename Body, typename Finish>
void sum_and_finish(const ConstArray& x, const Body& body, const Finish& finish, Stream& stream) {
  const ColumnBlocks blocks(x.extent(0), x.extent(1));
  auto* partial = static_cast<float*>(stream.scratch(kSums * blocks.partial_bytes()));
  const dim3 grid(blocks_for(blocks.columns, kWarpSize * N), static_cast<unsigned>(blocks.count));
  launch(sum_rows<N, kSums, Body>, {grid, kColumnThreads, sizeof(RowSumsShared<N, kSums>)}, stream, body, blocks.rows,
         blocks.columns, blocks.height, partial);
  launch(finish_columns<kSums, Finish>, {blocks_for(blocks.columns, kFinishThreads), kFinishThreads}, stream, partial,
         static_cast<int>(blocks.count), blocks.columns, finish);
}

template <int N, typename Body>
void map(const ConstArray& x, const Body& body, Stream& stream) {
  // One block of rows at least: of no rows, there still are statistics to write.
  const dim3 grid(blocks_for(x.extent(1), kWarpSize * N), std::max(1U, blocks_for(x.extent(0), kRowsPerBlock)));
  launch(map_rows<N, Body>, {grid, kColumnThreads}, stream, body, x.extent(0), static_cast<int>(x.extent(1)));
}

template <typename T, int N>
struct Plain {
  const T* x;

  __device__ __forceinline__ void begin(int) {}
  __device__ __forceinline__ void add(std::int64_t at, float (&sums)[1][N]) const {
    float values[N];
    load(x + at, values);
#pragma unroll
    for (int i = 0; i < N; ++i) sums[0][i] += values[i];
  }
};

struct WriteSums {
  float* sums;
  int columns;
  float rows;

  __device__ __forceinline__ void operator()(int column, const float (&values)[1]) const {
    sums[column] = values[0];
    if (column == 0) sums[columns] = rows;
  }
};

template <typename T, int N>
struct Squares {
  const T* x;
  const float* sums;
  int columns;
  float mean[N] = {};

  __device__ __forceinline__ void begin(int column) {
    const float count = sums[columns];
    load(sums + column, mean);
#pragma unroll
    for (int i = 0; i < N; ++i) mean[i] /= count;
  }
  __device__ __forceinline__ void add(std::int64_t at, float (&squares)[1][N]) const {
    float values[N];
    load(x + at, values);
#pragma unroll
    for (int i = 0; i < N; ++i) squares[0][i] += (values[i] - mean[i]) * (values[i] - mean[i]);
  }
};

struct WriteSquares {
  float* squares;

  __device__ __forceinline__ void operator()(int column, const float (&values)[1]) const {
    squares[column] = values[0];
  }
};

template <typename T, int N>
struct Forward {
  const T* x;
  const float *sums, *squares, *gamma, *beta;
  float eps;
  T* y;
  float *mean_out, *inverse_std_out, *statistics;  // statistics: null where they are not wanted
  int columns;
  float mean[N] = {}, scale[N] = {}, shift[N] = {};

  __device__ __forceinline__ void begin(int column) {
    const float count = sums[columns];
    float square[N];
    load(sums + column, mean);
    load(squares + column, square);
    load(gamma + column, scale);
    load(beta + column, shift);
    const bool writes = blockIdx.y == 0 && own_group() == 0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      mean[i] /= count;
      const float inverse_std = 1.0F / sqrtf(square[i] / count + eps);
      scale[i] *= inverse_std;
      if (!writes) continue;
      mean_out[column + i] = mean[i];
      inverse_std_out[column + i] = inverse_std;
      if (statistics == nullptr) continue;
      statistics[column + i] = mean[i];
      statistics[columns + column + i] = square[i] / (count > 2.0F ? count - 1.0F : 1.0F);
    }
  }
  __device__ __forceinline__ void step(std::int64_t at) const {
    float values[N];
    load(x + at, values);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = (values[i] - mean[i]) * scale[i] + shift[i];
    store(values, y + at);
  }
};

template <typename T, int N>
struct GradientSums {
  const T *x, *dy;
  const float* mean_in;
  float mean[N] = {};

  __device__ __forceinline__ void begin(int column) { load(mean_in + column, mean); }
  __device__ __forceinline__ void add(std::int64_t at, float (&sums)[2][N]) const {
    float values[N];
    float gradient[N];
    load(x + at, values);
    load(dy + at, gradient);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      sums[0][i] += gradient[i];
      sums[1][i] += gradient[i] * (values[i] - mean[i]);
    }
  }
};

struct WriteGradientSums {
  const float* inverse_std;
  float *sums, *d_gamma, *d_beta;  // the last two null: ignored
  bool gamma_adds, beta_adds;
  int columns;

  __device__ __forceinline__ void operator()(int column, const float (&values)[2]) const {
    const float beta = values[0];
    const float gamma = values[1] * inverse_std[column];
    sums[column] = beta;
    sums[columns + column] = gamma;
    if (d_beta != nullptr) d_beta[column] = beta_adds ? d_beta[column] + beta : beta;
    if (d_gamma != nullptr) d_gamma[column] = gamma_adds ? d_gamma[column] + gamma : gamma;
  }
};

template <typename T, int N>
struct Backward {
  const T *x, *dy;
  const float *mean_in, *inverse_std, *gamma, *sums, *forward_sums;
  T* dx;
  bool adds;
  int columns;
  float mean[N] = {}, scale[N] = {}, offset[N] = {}, slope[N] = {};

  __device__ __forceinline__ void begin(int column) {
    const float count = forward_sums[columns];
    float inverse[N];
    load(inverse_std + column, inverse);
    load(mean_in + column, mean);
    load(gamma + column, scale);
    load(sums + column, offset);
    load(sums + columns + column, slope);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      scale[i] *= inverse[i];
      offset[i] /= count;
      slope[i] = slope[i] / count * inverse[i];
    }
  }
  __device__ __forceinline__ void step(std::int64_t at) const {
    float values[N];
    float gradient[N];
    float result[N] = {};
    load(x + at, values);
    load(dy + at, gradient);
    if (adds) load(dx + at, result);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      result[i] += scale[i] * (gradient[i] - (offset[i] + (values[i] - mean[i]) * slope[i]));
    }
    store(result, dx + at);
  }
};

}  // namespace

void batch_norm_sums(const BatchNormSums& args, Stream& stream) {
  check_batch_norm(args);
  const std::int64_t width = args.x.extent(1);
  visit_compute_type(args.x.dtype(), "batch_norm", [&](auto zero) {
    using T = decltype(zero);
    with_pack<T>(pack_size<T>(width, args.x), [&](auto n) {
      sum_and_finish<n, 1>(args.x, Plain<T, n>{args.x.as<T>()},
                           WriteSums{.sums = args.sums.as<float>(),
                                     .columns = static_cast<int>(width),
                                     .rows = static_cast<float>(args.x.extent(0))},
                           stream);
    });
  });
}

void batch_norm_squares(const BatchNormSquares& args, Stream& stream) {
  check_batch_norm(args);
  const std::int64_t width = args.x.extent(1);
  visit_compute_type(args.x.dtype(), "batch_norm", [&](auto zero) {
    using T = decltype(zero);
    with_pack<T>(pack_size<T>(width, args.x, args.sums), [&](auto n) {
      const Squares<T, n> squares{
          .x = args.x.as<T>(), .sums = args.sums.as<float>(), .columns = static_cast<int>(width)};
      sum_and_finish<n, 1>(args.x, squares, WriteSquares{args.squares.as<float>()}, stream);
    });
  });
}

void batch_norm_forward(const BatchNormForward& args, Stream& stream) {
  check_batch_norm(args);
  const std::int64_t width = args.x.extent(1);
  visit_compute_type(args.x.dtype(), "batch_norm", [&](auto zero) {
    using T = decltype(zero);
    with_pack<T>(pack_size<T>(width, args.x, args.y, args.sums, args.squares, args.gamma, args.beta), [&](auto n) {
      map<n>(args.x,
             Forward<T, n>{.x = args.x.as<T>(),
                           .sums = args.sums.as<float>(),
                           .squares = args.squares.as<float>(),
                           .gamma = args.gamma.as<float>(),
                           .beta = args.beta.as<float>(),
                           .eps = static_cast<float>(args.eps),
                           .y = args.y.as<T>(),
                           .mean_out = args.mean.as<float>(),
                           .inverse_std_out = args.inverse_std.as<float>(),
                           .statistics = args.statistics.as<float>(),
                           .columns = static_cast<int>(width)},
             stream);
    });
  });
}

void batch_norm_backward_sums(const BatchNormBackwardSums& args, Stream& stream) {
  check_batch_norm(args);
  const std::int64_t width = args.x.extent(1);
  visit_compute_type(args.x.dtype(), "batch_norm", [&](auto zero) {
    using T = decltype(zero);
    with_pack<T>(pack_size<T>(width, args.x, args.dy, args.mean), [&](auto n) {
      const GradientSums<T, n> sums{.x = args.x.as<T>(), .dy = args.dy.as<T>(), .mean_in = args.mean.as<float>()};
      sum_and_finish<n, 2>(args.x, sums,
                           WriteGradientSums{.inverse_std = args.inverse_std.as<float>(),
                                             .sums = args.sums.as<float>(),
                                             .d_gamma = wanted<float>(args.d_gamma, args.gamma_mode),
                                             .d_beta = wanted<float>(args.d_beta, args.beta_mode),
                                             .gamma_adds = args.gamma_mode == GradientMode::accumulate,
                                             .beta_adds = args.beta_mode == GradientMode::accumulate,
                                             .columns = static_cast<int>(width)},
                           stream);
    });
  });
}

void batch_norm_backward(const BatchNormBackward& args, Stream& stream) {
  if (args.mode == GradientMode::ignore) return;
  check_batch_norm(args);
  const std::int64_t width = args.x.extent(1);
  visit_compute_type(args.x.dtype(), "batch_norm", [&](auto zero) {
    using T = decltype(zero);
    const int pack = pack_size<T>(width, args.x, args.dy, args.dx, args.mean, args.inverse_std, args.gamma, args.sums);
    with_pack<T>(pack, [&](auto n) {
      map<n>(args.x,
             Backward<T, n>{.x = args.x.as<T>(),
                            .dy = args.dy.as<T>(),
                            .mean_in = args.mean.as<float>(),
                            .inverse_std = args.inverse_std.as<float>(),
                            .gamma = args.gamma.as<float>(),
                            .sums = args.sums.as<float>(),
                            .forward_sums = args.forward_sums.as<float>(),
                            .dx = args.dx.as<T>(),
                            .adds = args.mode == GradientMode::accumulate,
                            .columns = static_cast<int>(width)},
             stream);
    });
  });
}

}  // namespace dino::cuda
