#include "benchmarks/textbook/attention.h"

#include "benchmarks/textbook/cls_attention.h"
#include "benchmarks/textbook/gpu.h"

namespace dino::bench::textbook {
namespace {

/// The sequence of a token, and where each thing lies for a row (head, token).
struct Layout {
  const std::int32_t *offsets, *sequence_of;
  std::int64_t tokens, width, head_width, longest;

  __device__ std::int64_t head(std::int64_t row) const { return row / tokens; }
  __device__ std::int64_t token(std::int64_t row) const { return row % tokens; }
  /// First token and length of the row's sequence.
  __device__ std::int64_t first(std::int64_t row) const { return offsets[sequence_of[token(row)]]; }
  __device__ std::int64_t length(std::int64_t row) const { return offsets[sequence_of[token(row)] + 1] - first(row); }
  /// The head's numbers of a token in qkv (part 0, 1 or 2), and in an array (T, C).
  template <typename T>
  __device__ T* in_qkv(T* qkv, std::int64_t row, std::int64_t token, std::int64_t part) const {
    return qkv + token * 3 * width + part * width + head(row) * head_width;
  }
  template <typename T>
  __device__ T* in_tokens(T* array, std::int64_t row, std::int64_t token) const {
    return array + token * width + head(row) * head_width;
  }
  /// The row's (N) part of an array (H, T, longest).
  __device__ float* in_matrix(float* matrix, std::int64_t row) const { return matrix + row * longest; }
};

template <typename Args>
Layout layout_of(const Args& args, const Array& sequence_of, const Array& matrix) {
  const std::int64_t width = args.out.extent(1);
  return {args.offsets.template as<std::int32_t>(),
          sequence_of.as<std::int32_t>(),
          args.out.extent(0),
          width,
          width / args.heads,
          matrix.extent(2)};
}

template <typename X, typename Y>
__device__ float dot(const X* x, const Y* y, std::int64_t count) {
  float sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += get(x[i]) * get(y[i]);
  return sum;
}

template <typename T>
void forward(const AttentionForwardSteps& steps, const Gpu& on) {
  const AttentionForward& args = steps.args;
  const Layout at = layout_of(args, steps.sequence_of, steps.scores);
  const std::int64_t rows = at.tokens * args.heads, d = at.head_width;
  const T* qkv = args.qkv.as<T>();
  T* out = args.out.as<T>();
  float *scores = steps.scores.as<float>(), *logsumexp = args.logsumexp.as<float>();
  const float scale = 1 / std::sqrt(static_cast<float>(d));
  on.for_rows(rows, at.longest, [=] DINO_STEP(const BlockRow& row, std::int64_t r) {
    const T* q = at.in_qkv(qkv, r, at.token(r), 0);
    row.each(at.length(r), [&](std::int64_t j) {
      at.in_matrix(scores, r)[j] = dot(q, at.in_qkv(qkv, r, at.first(r) + j, 1), d) * scale;
    });
  });
  on.for_rows(rows, at.longest, [=] DINO_STEP(const BlockRow& row, std::int64_t r) {
    const std::int64_t n = at.length(r);
    float* p = at.in_matrix(scores, r);
    const float largest = row.max(n, [&](std::int64_t j) { return p[j]; });
    row.each(n, [&](std::int64_t j) { p[j] = std::exp(p[j] - largest); });
    const float total = row.sum(n, [&](std::int64_t j) { return p[j]; });
    row.each(n, [&](std::int64_t j) { p[j] /= total; });
    logsumexp[r] = largest + std::log(total);
  });
  on.for_rows(rows, d, [=] DINO_STEP(const BlockRow& row, std::int64_t r) {
    const float* p = at.in_matrix(scores, r);
    row.each(d, [&](std::int64_t c) {
      float sum = 0;
      for (std::int64_t j = 0; j < at.length(r); ++j) sum += p[j] * get(at.in_qkv(qkv, r, at.first(r) + j, 2)[c]);
      at.in_tokens(out, r, at.token(r))[c] = put<T>(sum);
    });
  });
}

template <typename T>
void backward(const AttentionBackwardSteps& steps, const Gpu& on) {
  const AttentionBackward& args = steps.args;
  const Layout at = layout_of(args, steps.sequence_of, steps.probabilities);
  const std::int64_t rows = at.tokens * args.heads, d = at.head_width;
  const T *qkv = args.qkv.as<T>(), *out = args.out.as<T>(), *d_out = args.d_out.as<T>();
  T* d_qkv = args.d_qkv.as<T>();
  float *probabilities = steps.probabilities.as<float>(), *d_scores = steps.d_scores.as<float>();
  float* row_sums = steps.row_sums.as<float>();
  const float* logsumexp = args.logsumexp.as<float>();
  const float scale = 1 / std::sqrt(static_cast<float>(d));
  on.for_rows(rows, at.longest, [=] DINO_STEP(const BlockRow& row, std::int64_t r) {
    const T* q = at.in_qkv(qkv, r, at.token(r), 0);
    row.each(at.length(r), [&](std::int64_t j) {
      const float score = dot(q, at.in_qkv(qkv, r, at.first(r) + j, 1), d) * scale;
      at.in_matrix(probabilities, r)[j] = std::exp(score - logsumexp[r]);
    });
  });
  on.for_each(rows, [=] DINO_STEP(std::int64_t r) {
    row_sums[r] = dot(at.in_tokens(out, r, at.token(r)), at.in_tokens(d_out, r, at.token(r)), d);
  });
  on.for_rows(rows, at.longest, [=] DINO_STEP(const BlockRow& row, std::int64_t r) {
    const T* own = at.in_tokens(d_out, r, at.token(r));
    row.each(at.length(r), [&](std::int64_t j) {
      const float dp = dot(own, at.in_qkv(qkv, r, at.first(r) + j, 2), d);
      at.in_matrix(d_scores, r)[j] = at.in_matrix(probabilities, r)[j] * (dp - row_sums[r]) * scale;
    });
  });
  // dq of a query: over the keys. dk and dv of a key: over the queries, whose rows lie beside its own.
  on.for_rows(rows, d, [=] DINO_STEP(const BlockRow& row, std::int64_t r) {
    const float* ds = at.in_matrix(d_scores, r);
    row.each(d, [&](std::int64_t c) {
      float sum = 0;
      for (std::int64_t j = 0; j < at.length(r); ++j) sum += ds[j] * get(at.in_qkv(qkv, r, at.first(r) + j, 1)[c]);
      at.in_qkv(d_qkv, r, at.token(r), 0)[c] = put<T>(sum);
    });
  });
  on.for_rows(rows, d, [=] DINO_STEP(const BlockRow& row, std::int64_t r) {
    const std::int64_t first = at.first(r), key = at.token(r) - first;
    row.each(d, [&](std::int64_t c) {
      float sum = 0;
      for (std::int64_t i = 0; i < at.length(r); ++i)
        sum += at.in_matrix(d_scores, r - key + i)[key] * get(at.in_qkv(qkv, r, first + i, 0)[c]);
      at.in_qkv(d_qkv, r, at.token(r), 1)[c] = put<T>(sum);
    });
  });
  on.for_rows(rows, d, [=] DINO_STEP(const BlockRow& row, std::int64_t r) {
    const std::int64_t first = at.first(r), key = at.token(r) - first;
    row.each(d, [&](std::int64_t c) {
      float sum = 0;
      for (std::int64_t i = 0; i < at.length(r); ++i)
        sum += at.in_matrix(probabilities, r - key + i)[key] * get(at.in_tokens(d_out, r, first + i)[c]);
      at.in_qkv(d_qkv, r, at.token(r), 2)[c] = put<T>(sum);
    });
  });
}

}  // namespace

Call AttentionForwardSteps::on_gpu(const AttentionForwardSteps& steps, Stream& stream) {
  return [=, on = Gpu(stream)] {
    visit_compute_type(steps.type(), "bench", [&](auto zero) { forward<decltype(zero)>(steps, on); });
  };
}
Call AttentionBackwardSteps::on_gpu(const AttentionBackwardSteps& steps, Stream& stream) {
  return [=, on = Gpu(stream)] {
    visit_compute_type(steps.type(), "bench", [&](auto zero) { backward<decltype(zero)>(steps, on); });
  };
}
Call ClsAttentionForwardSteps::on_gpu(const ClsAttentionForwardSteps& steps, Stream& stream) {
  return call_of(steps, Gpu(stream));
}
Call ClsAttentionBackwardSteps::on_gpu(const ClsAttentionBackwardSteps& steps, Stream& stream) {
  return call_of(steps, Gpu(stream));
}

}  // namespace dino::bench::textbook
