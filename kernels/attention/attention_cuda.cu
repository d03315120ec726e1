// Attention over packed sequences of any length, as in FlashAttention-2 (Dao, arXiv 2307.08691): scores live in
// registers, no (N, N) matrix in memory.
//
// Method. bf16 with heads of 32 or 64: mma.m16n8k16, a warp per 16 queries. Sequences of up to 384·64/D rows: a block
// holds the keys and values of a sequence in shared memory, for as many heads as fit, so that a block of 4 heads of 37
// tokens has as much to do per byte as one head of 197; each is read once. Longer ones: a block takes 64 queries and
// streams over tiles of 64 keys. Blocks find their sequence in the offsets. Everything else (fp32, other widths,
// addresses that are no multiples of 16): CUDA cores, 16 queries per block.
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

#include "kernels/attention/attention.h"
#include "kernels/attention/attention_tiles_cuda.h"
#include "kernels/common/cuda/launch.h"

#include <algorithm>
#include <cmath>

namespace dino::cuda {
namespace {

using tiles::kTile;

constexpr float kLn2 = 0.6931471805599453F;

template <typename T>
struct Forward {
  const T* qkv;
  const std::int32_t* offsets;
  T* out;
  float* logsumexp;  // null: not wanted
  std::int64_t rows;
  int sequences, heads, head_width;
  int capacity;      // rows of keys that fit into the shared memory
  float exp2_scale;  // log2(e) / √D: probabilities are powers of two of scores times this
};

/// The largest of the four lanes that share a row, in each of them.
__device__ __forceinline__ float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(kWholeWarp, value, 1));
  return fmaxf(value, __shfl_xor_sync(kWholeWarp, value, 2));
}
__device__ __forceinline__ float quad_sum(float value) {
  value += __shfl_xor_sync(kWholeWarp, value, 1);
  return value + __shfl_xor_sync(kWholeWarp, value, 2);
}

/// Adds the scores of 16 queries, whose left operands are `q`, and 16 keys.
template <int D>
__device__ __forceinline__ void add_scores(const unsigned (&q)[D / 16][4], const BFloat16* keys,
                                           float (&scores)[2][4]) {
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    unsigned b[4];
    tiles::Rows<D>::load_transposed(keys, step, b);
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
    tiles::Rows<D>::load(x, step, b);
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

constexpr int kResidentWarps = 4;
constexpr int kTilesAtOnce = 5;  // of keys

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
  const HeadGroup group(static_cast<int>(blockIdx.x) % args.heads, args.heads, count * kTile, args.capacity);
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
            add_scores<D>(q, k + j * kTile * D, scores[j]);
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
          as_left(scores[j], p);
          add_product<D>(p, v + j * kTile * D, out);
        }
      }
    }
    largest[0] *= args.exp2_scale;
    largest[1] *= args.exp2_scale;
    finish_queries<D>(args, begin, length, group.first + head, row, largest, sums, out);
  }
}

constexpr int kStreamWarps = 4;
constexpr int kStreamRows = kStreamWarps * kTile;  // queries of a block, and keys that it holds at a time

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
      add_scores<D>(q, keys + j * kTile * D, scores[j]);
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
      as_left(scores[j], p);
      add_product<D>(p, keys + kSize + j * kTile * D, out);
    }
    __syncthreads();
  }
  finish_queries<D>(args, place.begin, place.length, head, row, largest, sums, out);
}

constexpr int kPlainWarps = 4;
constexpr int kPlainRows = 4 * kPlainWarps;  // four rows for each warp
constexpr int kPlainColumns = kWarpSize;     // at a time, one for each lane

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

constexpr std::size_t kMostSharedBytes = 163 << 10;  // of a block on sm_80

/// Blocks when each takes up to `rows` rows of one head.
unsigned parts(std::int64_t rows, std::int64_t sequences, int heads, int part_rows) {
  return static_cast<unsigned>((rows / part_rows + sequences) * heads);
}

/// Does this head width have kernels for the tensor cores, which read packs of 16 bytes?
template <typename... Arrays>
bool fits_tensor_cores(std::int64_t head_width, const Arrays&... arrays) {
  return (head_width == 32 || head_width == 64) && pack_size<BFloat16>(head_width, arrays...) == 8;
}

template <int D>
void launch_forward(Forward<BFloat16> args, int max_length, Stream& stream) {
  constexpr int kRowBytes = 2 * D * static_cast<int>(sizeof(BFloat16));  // a key and a value
  constexpr int kUsual = 208 * 64 / D;                                   // rows: four blocks on sm_90
  constexpr int kMost = 384 * 64 / D;                                    // rows: two blocks on sm_90
  if (max_length > kMost) {
    launch(forward_streaming<D>,
           {parts(args.rows, args.sequences, args.heads, kStreamRows), kStreamWarps * kWarpSize,
            2 * kStreamRows * kRowBytes},
           stream, args);
    return;
  }
  args.capacity = std::max(kUsual, (max_length + kTile - 1) / kTile * kTile);
  launch(forward_resident<D>,
         {static_cast<unsigned>(args.sequences) * static_cast<unsigned>(args.heads), kResidentWarps * kWarpSize,
          static_cast<std::size_t>(args.capacity) * kRowBytes},
         stream, args);
}

/// Shared memory of the plain kernels. Throws Error where a block cannot have that much.
std::size_t plain_bytes(std::int64_t floats, std::int64_t head_width, const char* where) {
  const std::size_t bytes = static_cast<std::size_t>(floats) * sizeof(float);
  require(bytes <= kMostSharedBytes, where, "heads of {} are too wide for the shared memory; try more heads",
          head_width);
  return bytes;
}

}  // namespace

void attention_forward(const AttentionForward& args, Stream& stream) {
  check_attention(args);
  const std::int64_t width = args.qkv.extent(1) / 3;
  const std::int64_t head_width = width / args.heads;
  const double scale = 1.0 / std::sqrt(static_cast<double>(head_width));
  visit_compute_type(args.qkv.dtype(), "attention", [&](auto zero) {
    using T = decltype(zero);
    Forward<T> forward{.qkv = args.qkv.as<T>(),
                       .offsets = args.offsets.as<std::int32_t>(),
                       .out = args.out.as<T>(),
                       .logsumexp = args.logsumexp.as<float>(),
                       .rows = args.qkv.extent(0),
                       .sequences = static_cast<int>(args.offsets.extent(0)) - 1,
                       .heads = args.heads,
                       .head_width = static_cast<int>(head_width),
                       .capacity = 0,
                       .exp2_scale = static_cast<float>(scale * 1.4426950408889634)};
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (fits_tensor_cores(head_width, args.qkv, args.out)) {
        return head_width == 32 ? launch_forward<32>(forward, args.max_length, stream)
                                : launch_forward<64>(forward, args.max_length, stream);
      }
    }
    const std::int64_t floats = 2 * kPlainRows * head_width + kPlainRows * kPlainColumns +
                                kPlainColumns * plain_pitch(static_cast<int>(head_width));
    launch(forward_plain<T>,
           {parts(forward.rows, forward.sequences, args.heads, kPlainRows), kPlainWarps * kWarpSize,
            plain_bytes(floats, head_width, "attention")},
           stream, forward);
  });
}

}  // namespace dino::cuda
