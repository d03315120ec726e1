#include "kernels/column_sum/column_sum_cuda.h"
#include "kernels/layer_norm/layer_norm.h"

namespace dino::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarpSize;

/// The columns of a row that one lane of a warp holds: kSteps packs of N elements, a warp's width apart.
template <int N, int kSteps>
struct Columns {
  static constexpr int kStride = kWarpSize * N;

  /// Calls body(step, column) for every pack of this lane that lies in the row.
  template <typename Body>
  __device__ static __forceinline__ void each(int width, const Body& body) {
    const int first = static_cast<int>(threadIdx.x) % kWarpSize * N;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int column = first + step * kStride;
      if (column < width) body(step, column);
    }
  }
};

template <typename T>
struct Forward {
  const T *x, *branch;
  const float* branch_scale;
  const std::int32_t* row_sequence;
  const float *gamma, *beta;
  T *sum, *normalized;
  float *mean, *rstd;
  std::int64_t rows;
  int width;
  float eps;
};

/// A warp per row, which it keeps in registers from the load to the store: one pass over memory. The variance is summed
/// from the centred values, as the contract asks.
template <typename T, int N, int kSteps>
__global__ void __launch_bounds__(kThreads) forward_rows(const Forward<T> args) {
  using Lane = Columns<N, kSteps>;
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
  if (row >= args.rows) return;  // all lanes of a warp together
  const std::int64_t start = row * args.width;
  float values[kSteps][N];
  float total = 0;
  const float scale = args.branch_scale != nullptr ? args.branch_scale[args.row_sequence[row]] : 1.0F;
  Lane::each(args.width, [&](int step, int column) {
    load(args.x + start + column, values[step]);
    if (args.branch != nullptr) {
      float branch[N];
      load(args.branch + start + column, branch);
#pragma unroll
      for (int i = 0; i < N; ++i) values[step][i] = to_float(from_float<T>(values[step][i] + scale * branch[i]));
      store(values[step], args.sum + start + column);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) total += values[step][i];
  });
  const float inverse_width = 1.0F / static_cast<float>(args.width);
  const float mean = warp_sum(total) * inverse_width;
  float squares = 0;
  Lane::each(args.width, [&](int step, int) {
#pragma unroll
    for (int i = 0; i < N; ++i) squares += (values[step][i] - mean) * (values[step][i] - mean);
  });
  const float rstd = 1.0F / sqrtf(warp_sum(squares) * inverse_width + args.eps);
  Lane::each(args.width, [&](int step, int column) {
    float gamma[N];
    float beta[N];
    load(args.gamma + column, gamma);
    load(args.beta + column, beta);
#pragma unroll
    for (int i = 0; i < N; ++i) values[step][i] = (values[step][i] - mean) * rstd * gamma[i] + beta[i];
    store(values[step], args.normalized + start + column);
  });
  if (threadIdx.x % kWarpSize == 0) {
    if (args.mean != nullptr) args.mean[row] = mean;
    if (args.rstd != nullptr) args.rstd[row] = rstd;
  }
}

template <typename T>
struct Backward {
  const T* sum;
  const float *mean, *rstd, *gamma;
  const T *d_normalized, *d_sum;
  const float* branch_scale;
  const std::int32_t* row_sequence;
  T *dx, *d_branch;  // null: ignored
  bool dx_adds, d_branch_adds;
  float* partial;  // (blocks, 2, C): dgamma and dbeta of the rows of a block; null: not wanted
  std::int64_t rows;
  std::int64_t rows_per_block;
  int width;
};

template <typename T, int N>
__device__ __forceinline__ void put(float (&value)[N], T* to, bool adds) {
  if (adds) {
    float before[N];
    load(to, before);
#pragma unroll
    for (int i = 0; i < N; ++i) value[i] += before[i];
  }
  store(value, to);
}

/// A warp per row, a fixed share of rows per block. Gradients of gamma and beta stay in registers over a warp's rows,
/// are added in shared memory warp by warp, and leave as one row of `partial` per block: the same sums every time.
template <typename T, int N, int kSteps>
__global__ void __launch_bounds__(kThreads, 1) backward_rows(const Backward<T> args) {
  using Lane = Columns<N, kSteps>;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const std::int64_t first = blockIdx.x * args.rows_per_block;
  const std::int64_t end = first + args.rows_per_block < args.rows ? first + args.rows_per_block : args.rows;
  const float inverse_width = 1.0F / static_cast<float>(args.width);
  float dgamma[kSteps][N] = {};
  float dbeta[kSteps][N] = {};
  for (std::int64_t row = first + warp; row < end; row += kWarps) {
    const std::int64_t start = row * args.width;
    float total[kSteps][N] = {};
    if (args.d_normalized != nullptr) {
      const float mean = args.mean[row];
      const float rstd = args.rstd[row];
      float normal[kSteps][N];
      float g_sum = 0;
      float gn_sum = 0;
      Lane::each(args.width, [&](int step, int column) {
        float dy[N];
        float gamma[N];
        load(args.sum + start + column, normal[step]);
        load(args.d_normalized + start + column, dy);
        load(args.gamma + column, gamma);
#pragma unroll
        for (int i = 0; i < N; ++i) {
          normal[step][i] = (normal[step][i] - mean) * rstd;
          dgamma[step][i] += dy[i] * normal[step][i];
          dbeta[step][i] += dy[i];
          total[step][i] = dy[i] * gamma[i];
          g_sum += total[step][i];
          gn_sum += total[step][i] * normal[step][i];
        }
      });
      const float mean_g = warp_sum(g_sum) * inverse_width;
      const float mean_gn = warp_sum(gn_sum) * inverse_width;
      Lane::each(args.width, [&](int step, int) {
#pragma unroll
        for (int i = 0; i < N; ++i) total[step][i] = rstd * (total[step][i] - mean_g - normal[step][i] * mean_gn);
      });
    }
    const float scale = args.branch_scale != nullptr ? args.branch_scale[args.row_sequence[row]] : 1.0F;
    Lane::each(args.width, [&](int step, int column) {
      if (args.d_sum != nullptr) {
        float d_sum[N];
        load(args.d_sum + start + column, d_sum);
#pragma unroll
        for (int i = 0; i < N; ++i) total[step][i] += d_sum[i];
      }
      float d_branch[N];
#pragma unroll
      for (int i = 0; i < N; ++i) d_branch[i] = scale * total[step][i];
      if (args.dx != nullptr) put(total[step], args.dx + start + column, args.dx_adds);
      if (args.d_branch != nullptr) put(d_branch, args.d_branch + start + column, args.d_branch_adds);
    });
  }
  if (args.partial == nullptr) return;
  float* sums = &shared_memory<float>();  // (2, C)
  for (int turn = 0; turn < kWarps; ++turn) {
    if (turn == warp) {
      Lane::each(args.width, [&](int step, int column) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
          float& gamma_sum = sums[column + i];
          float& beta_sum = sums[args.width + column + i];
          gamma_sum = turn == 0 ? dgamma[step][i] : gamma_sum + dgamma[step][i];
          beta_sum = turn == 0 ? dbeta[step][i] : beta_sum + dbeta[step][i];
        }
      });
    }
    __syncthreads();
  }
  float* partial = args.partial + std::int64_t{blockIdx.x} * 2 * args.width;
  for (int c = static_cast<int>(threadIdx.x); c < 2 * args.width; c += kThreads) partial[c] = sums[c];
}

/// Calls function(N, steps) with the constants for rows of `width` elements that are read in packs of `pack`.
template <typename T, typename Function>
void with_columns(std::int64_t width, int pack, const char* where, const Function& function) {
  const auto of_pack = [&](auto n) {
    const std::int64_t steps = (width + kWarpSize * n - 1) / (kWarpSize * n);
    if constexpr (n == 1) {
      if (steps <= 6) return function(n, std::integral_constant<int, 6>{});
      if (steps <= 24) return function(n, std::integral_constant<int, 24>{});
    } else {
      if (steps <= 1) return function(n, std::integral_constant<int, 1>{});
      if (steps <= 2) return function(n, std::integral_constant<int, 2>{});
      if (steps <= 3) return function(n, std::integral_constant<int, 3>{});
      if (steps <= 6) return function(n, std::integral_constant<int, 6>{});
    }
    fail(where, "rows of {} elements are too wide; expected at most {}, in rows that begin at multiples of 16 bytes",
         width, 6 * kWarpSize * 16 / sizeof(T));
  };
  constexpr int kWidest = 16 / static_cast<int>(sizeof(T));
  pack == kWidest ? of_pack(std::integral_constant<int, kWidest>{}) : of_pack(std::integral_constant<int, 1>{});
}

}  // namespace

void layer_norm_forward(const LayerNormForward& args, Stream& stream) {
  check_layer_norm(args);
  const std::int64_t rows = args.x.extent(0);
  const std::int64_t width = args.x.extent(1);
  visit_compute_type(args.x.dtype(), "layer_norm", [&](auto zero) {
    using T = decltype(zero);
    const Forward<T> forward{.x = args.x.as<T>(),
                             .branch = args.branch.as<T>(),
                             .branch_scale = args.branch_scale.as<float>(),
                             .row_sequence = args.row_sequence.as<std::int32_t>(),
                             .gamma = args.gamma.as<float>(),
                             .beta = args.beta.as<float>(),
                             .sum = args.sum.as<T>(),
                             .normalized = args.normalized.as<T>(),
                             .mean = args.mean.as<float>(),
                             .rstd = args.rstd.as<float>(),
                             .rows = rows,
                             .width = static_cast<int>(width),
                             .eps = static_cast<float>(args.eps)};
    const int pack = pack_size<T>(width, args.x, args.branch, args.sum, args.normalized, args.gamma, args.beta);
    with_columns<T>(width, pack, "layer_norm", [&](auto n, auto steps) {
      launch(forward_rows<T, n, steps>, {blocks_for(rows, kWarps), kThreads}, stream, forward);
    });
  });
}

void layer_norm_backward(const LayerNormBackward& args, Stream& stream) {
  check_layer_norm(args);
  const std::int64_t rows = args.sum.extent(0);
  const std::int64_t width = args.sum.extent(1);
  const bool wants_parameters = args.dgamma_mode != GradientMode::ignore || args.dbeta_mode != GradientMode::ignore;
  // Bounds depend on the number of rows only. At most 512 blocks: three or four for each multiprocessor.
  constexpr std::int64_t kMaxBlocks = 512;
  const std::int64_t rows_per_block = std::max<std::int64_t>(2 * kWarps, (rows + kMaxBlocks - 1) / kMaxBlocks);
  const unsigned blocks = blocks_for(rows, rows_per_block);
  const auto row_bytes = static_cast<std::size_t>(2 * width) * sizeof(float);
  auto* partial = wants_parameters ? static_cast<float*>(stream.scratch(blocks * row_bytes)) : nullptr;
  visit_compute_type(args.sum.dtype(), "layer_norm_backward", [&](auto zero) {
    using T = decltype(zero);
    const Backward<T> backward{.sum = args.sum.as<T>(),
                               .mean = args.mean.as<float>(),
                               .rstd = args.rstd.as<float>(),
                               .gamma = args.gamma.as<float>(),
                               .d_normalized = args.d_normalized.as<T>(),
                               .d_sum = args.d_sum.as<T>(),
                               .branch_scale = args.branch_scale.as<float>(),
                               .row_sequence = args.row_sequence.as<std::int32_t>(),
                               .dx = wanted<T>(args.dx, args.dx_mode),
                               .d_branch = wanted<T>(args.d_branch, args.d_branch_mode),
                               .dx_adds = args.dx_mode == GradientMode::accumulate,
                               .d_branch_adds = args.d_branch_mode == GradientMode::accumulate,
                               .partial = partial,
                               .rows = rows,
                               .rows_per_block = rows_per_block,
                               .width = static_cast<int>(width)};
    const int pack = pack_size<T>(width, args.sum, args.d_normalized, args.d_sum, args.dx, args.d_branch, args.gamma);
    with_columns<T>(width, pack, "layer_norm_backward", [&](auto n, auto steps) {
      launch(backward_rows<T, n, steps>, {blocks, kThreads, wants_parameters ? row_bytes : 0}, stream, backward);
    });
  });
  if (!wants_parameters) return;
  launch_add_partials(partial, blocks, 2 * width, width, column_target(args.dgamma, args.dgamma_mode),
                      column_target(args.dbeta, args.dbeta_mode), stream);
}

}  // namespace dino::cuda
