// Keys (and for backward values) are packed transposed per sequence and head, so that scores are outer products over
// the head width: broadcast a query's number, multiply a vector of keys. A block of queries then goes through
// scores, softmax and product without leaving the cache. Every score is computed whole in one thread, in one order.
// Bound by FMA: at N = 197, D = 64 packing is 3 % of the work and the exponentials 10 %.
#include "kernels/attention/attention.h"
#include "kernels/common/parallel.h"

#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/attention_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/attention/tile-inl.h"
#include "kernels/common/simd_exp2-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
namespace tl = tiles::HWY_NAMESPACE;
using simd::HWY_NAMESPACE::FloatTag;
using tl::Destination;

constexpr std::size_t kForwardBlock = 24;   // queries whose scores are held at a time
constexpr std::size_t kBackwardBlock = 48;  // the same; more, as each block adds to dk and dv
constexpr std::int64_t kForwardItem = 240;  // queries that share one packing of keys; longer sequences are shared out
constexpr float kLog2E = 1.44269504F;

/// What head h of a sequence is made of.
struct Head {
  std::size_t length;
  std::size_t width;
  std::size_t q_stride;  // of qkv
  std::size_t out_stride;
  std::size_t q;  // offsets of the first element in qkv
  std::size_t k;
  std::size_t v;
  std::size_t out;  // in out
  std::size_t row;  // in a row of logsumexp, whose index is h
  float scale;
};
template <typename Args>
Head make_head(const Args& args, std::int64_t s, std::int64_t h) {
  const auto* offsets = args.offsets.template as<std::int32_t>();
  const auto begin = static_cast<std::size_t>(offsets[s]);
  const auto channels = static_cast<std::size_t>(args.qkv.extent(1) / 3);
  const std::size_t width = channels / static_cast<std::size_t>(args.heads);
  const std::size_t column = static_cast<std::size_t>(h) * width;
  const std::size_t q = begin * 3 * channels + column;
  return {.length = static_cast<std::size_t>(offsets[s + 1]) - begin,
          .width = width,
          .q_stride = 3 * channels,
          .out_stride = channels,
          .q = q,
          .k = q + channels,
          .v = q + 2 * channels,
          .out = begin * channels + column,
          .row = static_cast<std::size_t>(h * args.qkv.extent(0)) + begin,
          .scale = 1.0F / std::sqrt(static_cast<float>(width))};
}

/// Hands out one thread's scratch, piece by piece.
struct Pieces {
  float* next;
  HWY_INLINE float* take(std::size_t size) {
    float* piece = next;
    next += (size + 15) / 16 * 16;
    return piece;
  }
};

std::size_t forward_scratch(std::size_t length, std::size_t width) {
  const std::size_t key_stride = tl::packed_stride(length);
  const std::size_t row_stride = tl::packed_stride(width);
  return (width + kForwardBlock) * key_stride + (length + kForwardBlock) * row_stride + 64;
}
std::size_t backward_scratch(std::size_t length, std::size_t width) {
  const std::size_t key_stride = tl::packed_stride(length);
  const std::size_t row_stride = tl::packed_stride(width);
  return (2 * width + 2 * kBackwardBlock) * key_stride + (3 * length + 2 * kBackwardBlock) * row_stride + 256;
}

/// scores → exp(scale · (score − largest of the row)), for rows of which the first `length` of `columns` numbers count;
/// the others become 0. Gives each row's sum, and the largest of scale · score. Two passes, so that rows overlap in
/// each.
HWY_INLINE void exponentiate(float* scores, std::size_t stride, std::size_t rows, std::size_t length,
                             std::size_t columns, float scale, float* sums, float* largest) {
  const FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  const std::size_t whole = columns - lanes;  // the last vector may hold padding
  const auto valid = hn::FirstN(d, length - whole);
  const auto minus_infinity = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (std::size_t i = 0; i < rows; ++i) {
    float* row = scores + i * stride;
    auto most = hn::IfThenElse(valid, hn::LoadU(d, row + whole), minus_infinity);
    hn::StoreU(most, d, row + whole);
    for (std::size_t j = 0; j < whole; j += lanes) most = hn::Max(most, hn::LoadU(d, row + j));
    largest[i] = hn::GetLane(hn::MaxOfLanes(d, most)) * scale;
  }
  const auto factor = hn::Set(d, scale * kLog2E);
  for (std::size_t i = 0; i < rows; ++i) {
    float* row = scores + i * stride;
    const auto shift = hn::Set(d, largest[i] * kLog2E);
    auto sum = hn::Zero(d);
    for (std::size_t j = 0; j < columns; j += lanes) {
      const auto p = simd::HWY_NAMESPACE::exp2(d, hn::MulSub(factor, hn::LoadU(d, row + j), shift));
      hn::StoreU(p, d, row + j);
      sum = hn::Add(sum, p);
    }
    sums[i] = hn::GetLane(hn::SumOfLanes(d, sum));
  }
}

/// Queries [begin, end) of one head.
template <typename T>
void forward_item(const AttentionForward& args, std::int64_t s, std::int64_t h, std::size_t begin, std::size_t end,
                  Pieces scratch) {
  const Head head = make_head(args, s, h);
  const T* qkv = args.qkv.as<T>();
  const std::size_t columns = tl::padded(head.length);
  const std::size_t key_stride = tl::packed_stride(head.length);
  const std::size_t row_stride = tl::packed_stride(head.width);
  float* keys = scratch.take(head.width * key_stride);        // (D, N)
  float* values = scratch.take(head.length * row_stride);     // (N, D)
  float* queries = scratch.take(kForwardBlock * row_stride);  // (block, D)
  float* scores = scratch.take(kForwardBlock * key_stride);   // (block, N)
  float factors[kForwardBlock];
  float largest[kForwardBlock];
  tl::pack_transposed(qkv + head.k, head.q_stride, head.length, head.width, keys, key_stride);
  tl::pack(qkv + head.v, head.q_stride, head.length, head.width, values, row_stride);

  for (std::size_t first = begin; first < end; first += kForwardBlock) {
    const std::size_t rows = std::min(kForwardBlock, end - first);
    tl::pack(qkv + head.q + first * head.q_stride, head.q_stride, rows, head.width, queries, row_stride);
    tl::product<false>(rows, columns, head.width, queries, row_stride, keys, key_stride,
                       Destination<float>{.base = scores, .stride = key_stride, .width = columns});
    exponentiate(scores, key_stride, rows, head.length, columns, head.scale, factors, largest);
    if (args.logsumexp) {
      float* logsumexp = args.logsumexp.as<float>() + head.row + first;
      for (std::size_t i = 0; i < rows; ++i) logsumexp[i] = largest[i] + std::log(factors[i]);
    }
    for (std::size_t i = 0; i < rows; ++i) factors[i] = 1.0F / factors[i];
    tl::product<false>(rows, tl::padded(head.width), head.length, scores, key_stride, values, row_stride,
                       Destination<T>{.base = args.out.as<T>() + head.out + first * head.out_stride,
                                      .stride = head.out_stride,
                                      .width = head.width,
                                      .row_factor = factors});
  }
}

/// scores → p, d_p → ds, for one row.
HWY_INLINE void differentiate(float* scores, float* d_p, std::size_t columns, float scale, float logsumexp,
                              float delta) {
  const FloatTag d;
  const auto factor = hn::Set(d, scale * kLog2E);
  const auto shift = hn::Set(d, logsumexp * kLog2E);
  const auto delta_v = hn::Set(d, delta);
  const auto scale_v = hn::Set(d, scale);
  for (std::size_t j = 0; j < columns; j += hn::Lanes(d)) {
    const auto p = simd::HWY_NAMESPACE::exp2(d, hn::MulSub(factor, hn::LoadU(d, scores + j), shift));
    hn::StoreU(p, d, scores + j);
    hn::StoreU(hn::Mul(hn::Mul(scale_v, p), hn::Sub(hn::LoadU(d, d_p + j), delta_v)), d, d_p + j);
  }
}

template <typename T>
HWY_INLINE float dot(const T* a, const T* b, std::size_t n) {
  const FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  auto sum = hn::Zero(d);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) sum = hn::MulAdd(tl::load(d, a + i), tl::load(d, b + i), sum);
  float result = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < n; ++i) result += static_cast<float>(a[i]) * static_cast<float>(b[i]);
  return result;
}

template <typename T>
void backward_item(const AttentionBackward& args, std::int64_t s, std::int64_t h, Pieces scratch) {
  const Head head = make_head(args, s, h);
  const std::size_t length = head.length;
  const std::size_t width = head.width;
  const T* qkv = args.qkv.as<T>();
  const T* d_out = args.d_out.as<T>() + head.out;
  T* d_qkv = args.d_qkv.as<T>();
  const std::size_t columns = tl::padded(length);
  const std::size_t wide = tl::padded(width);
  const std::size_t key_stride = tl::packed_stride(length);
  const std::size_t row_stride = tl::packed_stride(width);
  float* keys_t = scratch.take(width * key_stride);              // (D, N)
  float* values_t = scratch.take(width * key_stride);            // (D, N)
  float* keys = scratch.take(length * row_stride);               // (N, D)
  float* queries = scratch.take(kBackwardBlock * row_stride);    // (block, D)
  float* gradients = scratch.take(kBackwardBlock * row_stride);  // (block, D), of out
  float* p = scratch.take(kBackwardBlock * key_stride);          // (block, N)
  float* ds = scratch.take(kBackwardBlock * key_stride);         // (block, N)
  float* dk = scratch.take(length * row_stride);                 // (N, D)
  float* dv = scratch.take(length * row_stride);                 // (N, D)
  tl::pack_transposed(qkv + head.k, head.q_stride, length, width, keys_t, key_stride);
  tl::pack_transposed(qkv + head.v, head.q_stride, length, width, values_t, key_stride);
  tl::pack(qkv + head.k, head.q_stride, length, width, keys, row_stride);

  const std::size_t blocks = (length + kBackwardBlock - 1) / kBackwardBlock;
  for (std::size_t block = 0; block < blocks; ++block) {
    const std::size_t first = length * block / blocks;
    const std::size_t rows = length * (block + 1) / blocks - first;
    tl::pack(qkv + head.q + first * head.q_stride, head.q_stride, rows, width, queries, row_stride);
    tl::pack(d_out + first * head.out_stride, head.out_stride, rows, width, gradients, row_stride);
    tl::product<false>(rows, columns, width, queries, row_stride, keys_t, key_stride,
                       Destination<float>{.base = p, .stride = key_stride, .width = columns});
    tl::product<false>(rows, columns, width, gradients, row_stride, values_t, key_stride,
                       Destination<float>{.base = ds, .stride = key_stride, .width = columns});
    for (std::size_t i = 0; i < rows; ++i) {
      const std::size_t at = (first + i) * head.out_stride;
      const float delta = dot(d_out + at, args.out.as<T>() + head.out + at, width);
      const float logsumexp = args.logsumexp.as<float>()[head.row + first + i];
      differentiate(p + i * key_stride, ds + i * key_stride, columns, head.scale, logsumexp, delta);
    }
    tl::product<false>(rows, wide, length, ds, key_stride, keys, row_stride,
                       Destination<T>{.base = d_qkv + head.q + first * head.q_stride,
                                      .stride = head.q_stride,
                                      .width = width,
                                      .mode = args.mode});
    // Blocks of queries add up in scratch; the last one writes the result.
    const auto add_keys_gradient = [&](const float* a, const float* b, float* sum, std::size_t result) {
      if (block + 1 < blocks) {
        const GradientMode mode = block == 0 ? GradientMode::overwrite : GradientMode::accumulate;
        tl::product<true>(length, wide, rows, a, key_stride, b, row_stride,
                          Destination<float>{.base = sum, .stride = row_stride, .width = wide, .mode = mode});
      } else {
        tl::product<true>(length, wide, rows, a, key_stride, b, row_stride,
                          Destination<T>{.base = d_qkv + result,
                                         .stride = head.q_stride,
                                         .width = width,
                                         .mode = args.mode,
                                         .more = block > 0 ? sum : nullptr,
                                         .more_stride = row_stride});
      }
    };
    add_keys_gradient(ds, queries, dk, head.k);
    add_keys_gradient(p, gradients, dv, head.v);
  }
}

void attention_forward_all(const AttentionForward& args, Stream& stream) {
  const auto width = static_cast<std::size_t>(args.qkv.extent(1) / 3 / args.heads);
  const std::size_t share = (forward_scratch(static_cast<std::size_t>(args.max_length), width) + 15) / 16 * 16;
  auto* scratch =
      static_cast<float*>(stream.scratch(share * sizeof(float) * static_cast<std::size_t>(omp_get_max_threads())));
  const std::int64_t parts = (args.max_length + kForwardItem - 1) / kForwardItem;
  const auto* offsets = args.offsets.as<std::int32_t>();
  visit_compute_type(args.qkv.dtype(), "attention", [&](auto zero) {
    parallel_items((args.offsets.extent(0) - 1) * args.heads * parts, [&](std::int64_t item) {
      const std::int64_t s = item / parts / args.heads;
      const std::int64_t begin = item % parts * kForwardItem;
      const std::int64_t end = std::min<std::int64_t>(begin + kForwardItem, offsets[s + 1] - offsets[s]);
      if (begin >= end) return;
      forward_item<decltype(zero)>(args, s, item / parts % args.heads, static_cast<std::size_t>(begin),
                                   static_cast<std::size_t>(end),
                                   Pieces{scratch + share * static_cast<std::size_t>(omp_get_thread_num())});
    });
  });
}

void attention_backward_all(const AttentionBackward& args, Stream& stream) {
  const auto width = static_cast<std::size_t>(args.qkv.extent(1) / 3 / args.heads);
  const std::size_t share = (backward_scratch(static_cast<std::size_t>(args.max_length), width) + 15) / 16 * 16;
  auto* scratch =
      static_cast<float*>(stream.scratch(share * sizeof(float) * static_cast<std::size_t>(omp_get_max_threads())));
  const auto* offsets = args.offsets.as<std::int32_t>();
  visit_compute_type(args.qkv.dtype(), "attention_backward", [&](auto zero) {
    parallel_items((args.offsets.extent(0) - 1) * args.heads, [&](std::int64_t item) {
      const std::int64_t s = item / args.heads;
      if (offsets[s] == offsets[s + 1]) return;
      backward_item<decltype(zero)>(args, s, item % args.heads,
                                    Pieces{scratch + share * static_cast<std::size_t>(omp_get_thread_num())});
    });
  });
}

}  // namespace
}  // namespace dino::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu {

HWY_EXPORT(attention_forward_all);
HWY_EXPORT(attention_backward_all);

void attention_forward(const AttentionForward& args, Stream& stream) {
  check_attention(args);
  HWY_DYNAMIC_DISPATCH(attention_forward_all)(args, stream);
}

void attention_backward(const AttentionBackward& args, Stream& stream) {
  check_attention(args);
  if (args.mode == GradientMode::ignore) return;
  HWY_DYNAMIC_DISPATCH(attention_backward_all)(args, stream);
}

}  // namespace dino::cpu
#endif
