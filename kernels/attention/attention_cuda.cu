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
//
// Gradient. Every sum belongs to one warp: of 16 keys over all queries (dk, dv), of 16 queries over all keys (dq).
// Scores and d_out vᵀ are computed in both directions: 14 N² D flops where 10 would do, in exchange for no atomics and
// no matrix of ds. Up to 208·64/D rows, q, k, v and d_out stay in shared memory (108 KB, two blocks per multiprocessor
// of sm_90, one of sm_80); longer sequences stream in two launches, after one for rowsum(d_out ∘ out).
//
// Bytes: 16 N D per head in bf16: 197 tokens of a head of 64 take 47 ns of an H200's memory and 39 MFLOP (rounded up),
// 84 ns at the 460 TFLOP/s above: bound by operands from shared memory.
//
// Numerics: p and ds are rounded to bf16 for their products; 1/√D is applied to the fp32 sums. The same bits every
// time.

#include "kernels/attention/attention.h"
#include "kernels/attention/attention_tiles_cuda.h"
#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/rows.h"

#include <algorithm>
#include <cmath>

namespace dino::cuda {
namespace {

using tiles::kTile;

constexpr float kLog2E = 1.4426950408889634F;
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

template <typename T>
struct Backward {
  const T *qkv, *out, *d_out;
  const std::int32_t* offsets;
  const float* logsumexp;
  const float* delta;  // (H, T), rowsum(d_out ∘ out), where it is computed beforehand
  T* d_qkv;
  bool adds;
  std::int64_t rows;
  int sequences, heads, head_width;
  int capacity;  // rows of a tile that fit into the shared memory
  float scale, exp2_scale;
};

// Both halves of the gradient have one form. Of rows x they sum over the columns y of the scores:
//   queries:          x1 = q, x2 = d_out, y1 = k, y2 = v:       p = exp(x1 y1ᵀ / √D − logsumexp), ds = p ∘ (x2 y2ᵀ −
//   δ), keys and values:  x1 = k, x2 = v,     y1 = q, y2 = d_out:   dx1 = ds y1 / √D, and of keys dx2 = p y2.
// The scores are computed twice, once in each direction. In exchange each sum is one warp's alone, in a fixed order:
// neither atomic additions nor a matrix of ds in memory.

/// The logsumexp of a query, as a power of two's exponent; of what is no query, one that makes its probabilities zero.
template <typename T>
__device__ __forceinline__ float exponent_of(const Backward<T>& args, int head, int begin, int row, int length) {
  return row < length ? args.logsumexp[head * args.rows + begin + row] * kLog2E : INFINITY;
}

/// Adds a tile of 16 columns to the gradients of 16 rows. `exponents` and `deltas` are those of the tile's queries
/// where the rows are keys, else of the rows group and group + 8. `valid`: columns that there are.
template <int D, bool kOfKeys>
__device__ __forceinline__ void add_columns(const unsigned (&x1)[D / 16][4], const unsigned (&x2)[D / 16][4],
                                            const BFloat16* y1, const BFloat16* y2, const float* exponents,
                                            const float* deltas, int valid, float exp2_scale, float (&dx1)[D / 8][4],
                                            float (&dx2)[D / 8][4]) {
  float p[2][4] = {};
  float ds[2][4] = {};
  add_scores<D>(x1, y1, p);
  add_scores<D>(x2, y2, ds);
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
  as_left(ds, left);
  add_product<D>(left, y1, dx1);
  if constexpr (kOfKeys) {
    as_left(p, left);
    add_product<D>(left, y2, dx2);
  }
}

/// Where the gradient of part 0, 1 or 2 (q, k, v) of a head lies.
template <typename T>
__device__ __forceinline__ T* gradient_of(const Backward<T>& args, int begin, int head, int part) {
  return args.d_qkv + (std::int64_t{begin} * 3 + part) * args.heads * args.head_width + head * args.head_width;
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

constexpr int kBackwardWarps = 6;  // two blocks leave 168 registers for a thread

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
  const HeadGroup group(static_cast<int>(blockIdx.x) % args.heads, args.heads, padded, args.capacity);
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

/// Any head width and alignment, without tensor cores: gradients of 16 queries, or of 16 keys and values, per block.
template <typename T, bool kOfKeys>
__global__ void __launch_bounds__(kPlainWarps* kWarpSize, 4) backward_plain(const Backward<T> args) {
  const int head = static_cast<int>(blockIdx.x) % args.heads;
  const tiles::Place place =
      tiles::find_part(args.offsets, args.sequences, kPlainRows, static_cast<int>(blockIdx.x) / args.heads);
  if (place.length == 0) return;
  const int size = args.head_width;
  const int pitch = plain_pitch(size);
  float* x1 = &shared_memory<float>();          // (16, D)
  float* x2 = x1 + kPlainRows * size;           // (16, D)
  float* dx1 = x2 + kPlainRows * size;          // (16, D)
  float* dx2 = dx1 + kPlainRows * size;         // (16, D)
  float* p = dx2 + kPlainRows * size;           // (16, 32)
  float* ds = p + kPlainRows * kPlainColumns;   // (16, 32)
  float* y1 = ds + kPlainRows * kPlainColumns;  // (32, D)
  float* y2 = y1 + kPlainColumns * pitch;       // (32, D)
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  const int first = static_cast<int>(threadIdx.x / kWarpSize) * 4;
  const std::int64_t width = std::int64_t{args.heads} * size;
  const T* q = args.qkv + place.begin * 3 * width + head * size;
  const T* k = q + width;
  const T* v = k + width;
  const T* d_out = args.d_out + place.begin * width + head * size;
  const auto load_tile = [&](const T* from, std::int64_t stride, int row, int rows, int to_pitch, float* to) {
    load_plain(from + row * stride, stride, place.length - row, rows, size, to_pitch, 1.0F, to);
  };
  const auto statistics = [&](int row, float& exponent, float& delta) {
    exponent = exponent_of(args, head, place.begin, row, place.length);
    delta = row < place.length ? args.delta[head * args.rows + place.begin + row] : 0.0F;
  };
  load_tile(kOfKeys ? k : q, 3 * width, place.row, kPlainRows, size, x1);
  load_tile(kOfKeys ? v : d_out, kOfKeys ? 3 * width : width, place.row, kPlainRows, size, x2);
  for (int i = static_cast<int>(threadIdx.x); i < 2 * kPlainRows * size; i += kPlainWarps * kWarpSize) dx1[i] = 0;
  for (int column = 0; column < place.length; column += kPlainColumns) {
    __syncthreads();
    load_tile(kOfKeys ? q : k, 3 * width, column, kPlainColumns, pitch, y1);
    load_tile(kOfKeys ? d_out : v, kOfKeys ? width : 3 * width, column, kPlainColumns, pitch, y2);
    __syncthreads();
    float score[4] = {};
    float dp[4] = {};
    for (int c = 0; c < size; ++c) {
      const float a = y1[lane * pitch + c];
      const float b = y2[lane * pitch + c];
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        score[r] += x1[(first + r) * size + c] * a;
        dp[r] += x2[(first + r) * size + c] * b;
      }
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      float exponent;
      float delta;
      statistics(kOfKeys ? column + lane : place.row + first + r, exponent, delta);
      const bool there = column + lane < place.length;
      const float probability = there ? exp2f(score[r] * args.exp2_scale - exponent) : 0.0F;
      p[(first + r) * kPlainColumns + lane] = probability;
      ds[(first + r) * kPlainColumns + lane] = probability * (dp[r] - delta);
    }
    __syncwarp();
    for (int c = lane; c < size; c += kWarpSize) {
      float sum1[4] = {};
      float sum2[4] = {};
      for (int j = 0; j < kPlainColumns; ++j) {
        const float a = y1[j * pitch + c];
        const float b = y2[j * pitch + c];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          sum1[r] += ds[(first + r) * kPlainColumns + j] * a;
          if (kOfKeys) sum2[r] += p[(first + r) * kPlainColumns + j] * b;
        }
      }
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        dx1[(first + r) * size + c] += sum1[r];
        if (kOfKeys) dx2[(first + r) * size + c] += sum2[r];
      }
    }
  }
  const auto put = [&](T* to, int row, const float* from, float factor) {
    for (int c = lane; c < size; c += kWarpSize) {
      T& place_of = to[row * 3 * width + c];
      place_of = from_float<T>(from[c] * factor + (args.adds ? to_float(place_of) : 0.0F));
    }
  };
  for (int r = 0; r < 4; ++r) {
    const int row = place.row + first + r;
    if (row >= place.length) break;  // all lanes of a warp together
    put(gradient_of(args, place.begin, head, kOfKeys ? 1 : 0), row, dx1 + (first + r) * size, args.scale);
    if (kOfKeys) put(gradient_of(args, place.begin, head, 2), row, dx2 + (first + r) * size, 1.0F);
  }
}

/// rowsum(d_out ∘ out), a warp for a row of a head.
template <typename T>
__global__ void __launch_bounds__(kPlainWarps* kWarpSize)
    compute_deltas(const T* out, const T* d_out, float* delta, std::int64_t rows, int heads, int head_width) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kPlainWarps + threadIdx.x / kWarpSize;
  if (i >= rows * heads) return;  // all lanes of a warp together
  const float sum = row_dot<1>(out + i * head_width, d_out + i * head_width, head_width);
  if (threadIdx.x % kWarpSize == 0) delta[i % heads * rows + i / heads] = sum;
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

template <typename T>
const float* launch_deltas(const Backward<T>& args, Stream& stream) {
  const std::int64_t dots = args.rows * args.heads;
  auto* delta = static_cast<float*>(stream.scratch(static_cast<std::size_t>(dots) * sizeof(float)));
  launch(compute_deltas<T>, {blocks_for(dots, kPlainWarps), kPlainWarps * kWarpSize}, stream, args.out, args.d_out,
         delta, args.rows, args.heads, args.head_width);
  return delta;
}

template <int D>
void launch_backward(Backward<BFloat16> args, int max_length, Stream& stream) {
  constexpr int kCapacity = 208 * 64 / D;  // rows: two blocks on sm_90
  constexpr std::size_t kRowBytes = D * sizeof(BFloat16);
  if (max_length <= kCapacity) {
    args.capacity = kCapacity;
    launch(backward_resident<D>,
           {static_cast<unsigned>(args.sequences) * static_cast<unsigned>(args.heads), kBackwardWarps * kWarpSize,
            kCapacity * (4 * kRowBytes + 2 * sizeof(float))},
           stream, args);
    return;
  }
  args.delta = launch_deltas(args, stream);
  const LaunchShape shape{parts(args.rows, args.sequences, args.heads, kStreamRows), kStreamWarps * kWarpSize,
                          kStreamRows * (4 * kRowBytes + 4 * sizeof(float))};
  launch(backward_streaming<D, true>, shape, stream, args);
  launch(backward_streaming<D, false>, shape, stream, args);
}

/// Shared memory of a plain kernel. Throws Error where a block cannot have as much.
std::size_t plain_bytes(std::int64_t floats_per_column, std::int64_t floats, std::int64_t head_width,
                        const char* where) {
  const std::int64_t widest =
      (static_cast<std::int64_t>(kMostSharedBytes / sizeof(float)) - floats) / floats_per_column;
  require(head_width <= widest, where,
          "heads are too wide for the shared memory; got {}, expected at most {}; try more", head_width, widest);
  return static_cast<std::size_t>(floats_per_column * head_width + floats) * sizeof(float);
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
    launch(forward_plain<T>,
           {parts(forward.rows, forward.sequences, args.heads, kPlainRows), kPlainWarps * kWarpSize,
            plain_bytes(2 * kPlainRows + kPlainColumns, (kPlainRows + 1) * kPlainColumns, head_width, "attention")},
           stream, forward);
  });
}

void attention_backward(const AttentionBackward& args, Stream& stream) {
  check_attention(args);
  if (args.mode == GradientMode::ignore) return;
  const std::int64_t width = args.qkv.extent(1) / 3;
  const std::int64_t head_width = width / args.heads;
  const double scale = 1.0 / std::sqrt(static_cast<double>(head_width));
  visit_compute_type(args.qkv.dtype(), "attention_backward", [&](auto zero) {
    using T = decltype(zero);
    Backward<T> backward{.qkv = args.qkv.as<T>(),
                         .out = args.out.as<T>(),
                         .d_out = args.d_out.as<T>(),
                         .offsets = args.offsets.as<std::int32_t>(),
                         .logsumexp = args.logsumexp.as<float>(),
                         .delta = nullptr,
                         .d_qkv = args.d_qkv.as<T>(),
                         .adds = args.mode == GradientMode::accumulate,
                         .rows = args.qkv.extent(0),
                         .sequences = static_cast<int>(args.offsets.extent(0)) - 1,
                         .heads = args.heads,
                         .head_width = static_cast<int>(head_width),
                         .capacity = 0,
                         .scale = static_cast<float>(scale),
                         .exp2_scale = static_cast<float>(scale * kLog2E)};
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (fits_tensor_cores(head_width, args.qkv, args.out, args.d_out, args.d_qkv)) {
        return head_width == 32 ? launch_backward<32>(backward, args.max_length, stream)
                                : launch_backward<64>(backward, args.max_length, stream);
      }
    }
    const LaunchShape shape{parts(backward.rows, backward.sequences, args.heads, kPlainRows), kPlainWarps * kWarpSize,
                            plain_bytes(4 * kPlainRows + 2 * kPlainColumns, (2 * kPlainRows + 2) * kPlainColumns,
                                        head_width, "attention_backward")};
    backward.delta = launch_deltas(backward, stream);
    launch(backward_plain<T, true>, shape, stream, backward);
    launch(backward_plain<T, false>, shape, stream, backward);
  });
}

}  // namespace dino::cuda
