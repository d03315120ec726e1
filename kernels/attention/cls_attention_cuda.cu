// Attention of one query per sequence, and its gradient.
//
// Method. A block per head of a sequence. The lanes that hold a row's packs share its dot product; scores stay in
// shared memory, and the weighted sum of rows is split over the block's groups of lanes and added up in their order.
//
// Bytes: kv once forward; kv read and d_kv written once backward: 4 N D and 8 N D per head in bf16, of rows of 2 D
// bytes. Flops: 4 N D and 8 N D.
//
// Bound: memory. Computed for an H200 (4.3 TB/s): 64 images of 2·197 + 8·37 tokens, C = 384: 68 MB, 16 µs forward.
//
// Numerics: fp32. Every block writes what is its own, in a fixed order: no atomics, the same bits every time.

#include "kernels/attention/cls_attention.h"
#include "kernels/common/cuda/launch.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace dino::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarpSize;

/// How a block shares the rows of a head: `lanes` neighbouring lanes, a power of two, take the packs of one row.
struct Split {
  int size;  // elements of a row, D
  int lanes;
  int most;  // rows that the shared memory has room for

  __host__ __device__ int groups() const { return kThreads / lanes; }
  __device__ int group() const { return static_cast<int>(threadIdx.x) / lanes; }
  __device__ int lane() const { return static_cast<int>(threadIdx.x) % lanes; }
  /// Floats of shared memory when `vectors` rows are kept.
  int floats(int vectors) const { return vectors * size + most + groups() * size + kWarps; }
};

/// One row of shared memory per name; `vectors` rows of D come first.
struct Shared {
  float *values, *partial, *warps;

  __device__ Shared(float* base, int vectors, const Split& split)
      : values(base + vectors * split.size),
        partial(values + split.most),
        warps(partial + split.groups() * split.size) {}
};

/// The sum, or the largest, of a value over the block, in every thread.
template <bool kMax>
__device__ __forceinline__ float block_reduce(float value, float* warps) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    const float other = __shfl_xor_sync(kWholeWarp, value, distance);
    value = kMax ? fmaxf(value, other) : value + other;
  }
  __syncthreads();  // what was there has been read
  if (threadIdx.x % kWarpSize == 0) warps[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  value = warps[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) value = kMax ? fmaxf(value, warps[warp]) : value + warps[warp];
  return value;
}

template <typename T>
__device__ __forceinline__ void keep_vector(const T* from, int size, float* to) {
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kThreads) to[i] = to_float(from[i]);
}

/// values[t] = factor · (row t of x) · vector
template <typename T, int N>
__device__ __forceinline__ void dot_rows(const T* x, std::int64_t stride, int length, const Split& split,
                                         const float* vector, float factor, float* values) {
#pragma unroll 4
  for (int base = 0; base < length; base += split.groups()) {
    const int row = base + split.group();
    float sum = 0;
    if (row < length) {
      for (int c = split.lane() * N; c < split.size; c += split.lanes * N) {
        float pack[N];
        load(x + row * stride + c, pack);
#pragma unroll
        for (int i = 0; i < N; ++i) sum += pack[i] * vector[c + i];
      }
    }
    for (int distance = split.lanes / 2; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(kWholeWarp, sum, distance);
    }
    if (row < length && split.lane() == 0) values[row] = sum * factor;
  }
}

/// Calls put(column, Σ_t weights[t] x[t, column]) in one thread for each column.
template <typename T, int N, typename Put>
__device__ __forceinline__ void sum_rows(const T* x, std::int64_t stride, int length, const Split& split,
                                         const float* weights, float* partial, const Put& put) {
  for (int c = split.lane() * N; c < split.size; c += split.lanes * N) {
    float sums[N] = {};
#pragma unroll 4
    for (int row = split.group(); row < length; row += split.groups()) {
      float pack[N];
      load(x + row * stride + c, pack);
#pragma unroll
      for (int i = 0; i < N; ++i) sums[i] += weights[row] * pack[i];
    }
#pragma unroll
    for (int i = 0; i < N; ++i) partial[split.group() * split.size + c + i] = sums[i];
  }
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < split.size; c += kThreads) {
    float sum = 0;
    for (int group = 0; group < split.groups(); ++group) sum += partial[group * split.size + c];
    put(c, sum);
  }
}

template <typename T>
struct Forward {
  const T *q, *kv;
  const std::int32_t* offsets;
  T* out;
  float* probabilities;
  std::int64_t rows;
  int heads;
  float exp2_scale;  // log2(e) / √D
  Split split;
};

template <typename T, int N>
__global__ void __launch_bounds__(kThreads, 12) forward_heads(const Forward<T> args) {
  const int head = static_cast<int>(blockIdx.x) % args.heads;
  const int sequence = static_cast<int>(blockIdx.x) / args.heads;
  const int begin = args.offsets[sequence];
  const int length = args.offsets[sequence + 1] - begin;
  const Split& split = args.split;
  const std::int64_t width = std::int64_t{args.heads} * split.size;
  const T* k = args.kv + begin * 2 * width + head * split.size;
  const std::int64_t at = sequence * width + head * split.size;
  float* q = &shared_memory<float>();
  const Shared shared(q, 1, split);
  keep_vector(args.q + at, split.size, q);
  __syncthreads();
  dot_rows<T, N>(k, 2 * width, length, split, q, args.exp2_scale, shared.values);
  __syncthreads();
  float largest = -INFINITY;
  for (int t = static_cast<int>(threadIdx.x); t < length; t += kThreads) largest = fmaxf(largest, shared.values[t]);
  largest = block_reduce<true>(largest, shared.warps);
  float sum = 0;
  for (int t = static_cast<int>(threadIdx.x); t < length; t += kThreads) {
    shared.values[t] = exp2f(shared.values[t] - largest);
    sum += shared.values[t];
  }
  sum = block_reduce<false>(sum, shared.warps);
  float* probabilities = args.probabilities + head * args.rows + begin;
  for (int t = static_cast<int>(threadIdx.x); t < length; t += kThreads) probabilities[t] = shared.values[t] / sum;
  sum_rows<T, N>(k + width, 2 * width, length, split, shared.values, shared.partial,
                 [&](int c, float value) { args.out[at + c] = from_float<T>(value / sum); });
}

template <typename T>
struct Backward {
  const T *q, *kv, *d_out;
  const std::int32_t* offsets;
  const float* probabilities;
  T *dq, *d_kv;  // null: ignored
  bool dq_adds, d_kv_adds;
  std::int64_t rows;
  int heads;
  float scale;
  Split split;
};

template <typename T, int N>
__global__ void __launch_bounds__(kThreads, 12) backward_heads(const Backward<T> args) {
  const int head = static_cast<int>(blockIdx.x) % args.heads;
  const int sequence = static_cast<int>(blockIdx.x) / args.heads;
  const int begin = args.offsets[sequence];
  const int length = args.offsets[sequence + 1] - begin;
  const Split& split = args.split;
  const std::int64_t width = std::int64_t{args.heads} * split.size;
  const std::int64_t row_at = begin * 2 * width + head * split.size;
  const std::int64_t at = sequence * width + head * split.size;
  const float* p = args.probabilities + head * args.rows + begin;
  float* q = &shared_memory<float>();
  float* d_out = q + split.size;
  const Shared shared(q, 2, split);
  keep_vector(args.q + at, split.size, q);
  keep_vector(args.d_out + at, split.size, d_out);
  __syncthreads();
  dot_rows<T, N>(args.kv + row_at + width, 2 * width, length, split, d_out, 1.0F, shared.values);
  __syncthreads();
  float mean = 0;
  for (int t = static_cast<int>(threadIdx.x); t < length; t += kThreads) mean += p[t] * shared.values[t];
  mean = block_reduce<false>(mean, shared.warps);
  for (int t = static_cast<int>(threadIdx.x); t < length; t += kThreads) {
    shared.values[t] = p[t] * (shared.values[t] - mean) * args.scale;
  }
  __syncthreads();
  if (args.d_kv != nullptr) {
    for (int row = split.group(); row < length; row += split.groups()) {
      const float ds = shared.values[row];
      const float probability = p[row];
      for (int c = split.lane() * N; c < split.size; c += split.lanes * N) {
        T* to = args.d_kv + row_at + row * 2 * width + c;
        float dk[N] = {};
        float dv[N] = {};
        if (args.d_kv_adds) {
          load(to, dk);
          load(to + width, dv);
        }
#pragma unroll
        for (int i = 0; i < N; ++i) {
          dk[i] += ds * q[c + i];
          dv[i] += probability * d_out[c + i];
        }
        store(dk, to);
        store(dv, to + width);
      }
    }
  }
  if (args.dq == nullptr) return;
  sum_rows<T, N>(args.kv + row_at, 2 * width, length, split, shared.values, shared.partial, [&](int c, float value) {
    args.dq[at + c] = from_float<T>(value + (args.dq_adds ? to_float(args.dq[at + c]) : 0.0F));
  });
}

/// Shares rows of `size` elements in packs of `pack`.
Split split_of(std::int64_t size, int pack, int max_length) {
  const auto packs = static_cast<unsigned>(size / pack);
  return {.size = static_cast<int>(size),
          .lanes = static_cast<int>(std::min(std::bit_ceil(packs), static_cast<unsigned>(kWarpSize))),
          .most = max_length};
}

/// Bytes of shared memory. Throws Error where a block cannot have as many.
std::size_t shared_bytes(const Split& split, int vectors, const Stream& stream, const char* where) {
  const std::size_t most = most_shared_bytes(stream);
  const std::size_t bytes = static_cast<std::size_t>(split.floats(vectors)) * sizeof(float);
  require(bytes <= most, where,
          "the scores of a sequence do not fit into shared memory; got max_length {}, expected {}", split.most,
          split.most - static_cast<int>((bytes - most) / sizeof(float)) - 1);
  return bytes;
}

}  // namespace

void cls_attention_forward(const ClsAttentionForward& args, Stream& stream) {
  check_attention(args);
  const std::int64_t size = args.q.extent(1) / args.heads;
  visit_compute_type(args.kv.dtype(), "cls_attention", [&](auto zero) {
    using T = decltype(zero);
    const int pack = pack_size<T>(size, args.kv);
    const Split split = split_of(size, pack, args.max_length);
    const Forward<T> forward{
        .q = args.q.as<T>(),
        .kv = args.kv.as<T>(),
        .offsets = args.offsets.as<std::int32_t>(),
        .out = args.out.as<T>(),
        .probabilities = args.probabilities.as<float>(),
        .rows = args.kv.extent(0),
        .heads = args.heads,
        .exp2_scale = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(size))),
        .split = split};
    const unsigned blocks = blocks_for(args.q.extent(0) * args.heads, 1);
    const std::size_t bytes = shared_bytes(split, 1, stream, "cls_attention");
    with_pack<T>(pack, [&](auto n) { launch(forward_heads<T, n>, {blocks, kThreads, bytes}, stream, forward); });
  });
}

void cls_attention_backward(const ClsAttentionBackward& args, Stream& stream) {
  check_attention(args);
  if (args.dq_mode == GradientMode::ignore && args.d_kv_mode == GradientMode::ignore) return;
  const std::int64_t size = args.q.extent(1) / args.heads;
  visit_compute_type(args.kv.dtype(), "cls_attention_backward", [&](auto zero) {
    using T = decltype(zero);
    const int pack = pack_size<T>(size, args.kv, args.d_kv);
    const Split split = split_of(size, pack, args.max_length);
    const Backward<T> backward{.q = args.q.as<T>(),
                               .kv = args.kv.as<T>(),
                               .d_out = args.d_out.as<T>(),
                               .offsets = args.offsets.as<std::int32_t>(),
                               .probabilities = args.probabilities.as<float>(),
                               .dq = wanted<T>(args.dq, args.dq_mode),
                               .d_kv = wanted<T>(args.d_kv, args.d_kv_mode),
                               .dq_adds = args.dq_mode == GradientMode::accumulate,
                               .d_kv_adds = args.d_kv_mode == GradientMode::accumulate,
                               .rows = args.kv.extent(0),
                               .heads = args.heads,
                               .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(size))),
                               .split = split};
    const unsigned blocks = blocks_for(args.q.extent(0) * args.heads, 1);
    const std::size_t bytes = shared_bytes(split, 2, stream, "cls_attention_backward");
    with_pack<T>(pack, [&](auto n) { launch(backward_heads<T, n>, {blocks, kThreads, bytes}, stream, backward); });
  });
}

}  // namespace dino::cuda
