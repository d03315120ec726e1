#pragma once

#include "benchmarks/textbook/step.h"
#include "kernels/attention/cls_attention.h"

namespace dino::bench::textbook {

/// The scores of each sequence and head, their softmax, the weighted sum.
struct ClsAttentionForwardSteps {
  ClsAttentionForward args;

  [[gnu::weak]] static Call on_gpu(const ClsAttentionForwardSteps& steps, Stream& stream);
  DType type() const { return args.out.dtype(); }

  template <typename T, typename On>
  void run(const On& on) const {
    const std::int64_t width = args.out.extent(1), heads = args.heads, d = width / heads;
    const std::int64_t sequences = args.out.extent(0), tokens = args.kv.extent(0), longest = args.max_length;
    const T *q = args.q.as<T>(), *kv = args.kv.as<T>();
    T* out = args.out.as<T>();
    float* probabilities = args.probabilities.as<float>();
    const auto* offsets = args.offsets.as<std::int32_t>();
    const float scale = 1 / std::sqrt(static_cast<float>(d));
    on.for_rows(sequences * heads, longest, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      const std::int64_t s = r / heads, head = r % heads, first = offsets[s];
      row.each(offsets[s + 1] - first, [&](std::int64_t t) {
        const T *own = q + s * width + head * d, *key = kv + (first + t) * 2 * width + head * d;
        float sum = 0;
        for (std::int64_t c = 0; c < d; ++c) sum += get(own[c]) * get(key[c]);
        probabilities[head * tokens + first + t] = sum * scale;
      });
    });
    on.for_rows(sequences * heads, longest, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      const std::int64_t s = r / heads, n = offsets[s + 1] - offsets[s];
      float* p = probabilities + r % heads * tokens + offsets[s];
      const float largest = row.max(n, [&](std::int64_t t) { return p[t]; });
      row.each(n, [&](std::int64_t t) { p[t] = std::exp(p[t] - largest); });
      const float total = row.sum(n, [&](std::int64_t t) { return p[t]; });
      row.each(n, [&](std::int64_t t) { p[t] /= total; });
    });
    on.for_rows(sequences, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t s) {
      row.each(width, [&](std::int64_t c) {
        const float* p = probabilities + c / d * tokens;
        float sum = 0;
        for (std::int64_t t = offsets[s]; t < offsets[s + 1]; ++t) sum += p[t] * get(kv[(2 * t + 1) * width + c]);
        out[s * width + c] = put<T>(sum);
      });
    });
  }
};

/// d_scores of each sequence and head, then the three gradients.
struct ClsAttentionBackwardSteps {
  ClsAttentionBackward args;
  Array d_scores;  // (H, T) fp32

  [[gnu::weak]] static Call on_gpu(const ClsAttentionBackwardSteps& steps, Stream& stream);
  DType type() const { return args.d_out.dtype(); }

  template <typename T, typename On>
  void run(const On& on) const {
    const std::int64_t width = args.d_out.extent(1), heads = args.heads, d = width / heads;
    const std::int64_t sequences = args.d_out.extent(0), tokens = args.kv.extent(0), longest = args.max_length;
    const T *q = args.q.as<T>(), *kv = args.kv.as<T>(), *d_out = args.d_out.as<T>();
    T *dq = args.dq.as<T>(), *d_kv = args.d_kv.as<T>();
    const float* probabilities = args.probabilities.as<float>();
    float* ds = d_scores.as<float>();
    const auto* offsets = args.offsets.as<std::int32_t>();
    const float scale = 1 / std::sqrt(static_cast<float>(d));
    on.for_rows(sequences * heads, longest, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      const std::int64_t s = r / heads, head = r % heads, first = offsets[s], n = offsets[s + 1] - first;
      const float* p = probabilities + head * tokens + first;
      float* own = ds + head * tokens + first;
      row.each(n, [&](std::int64_t t) {
        const T *slope = d_out + s * width + head * d, *value = kv + (2 * (first + t) + 1) * width + head * d;
        float sum = 0;
        for (std::int64_t c = 0; c < d; ++c) sum += get(slope[c]) * get(value[c]);
        own[t] = sum;
      });
      const float mean = row.sum(n, [&](std::int64_t t) { return p[t] * own[t]; });
      row.each(n, [&](std::int64_t t) { own[t] = p[t] * (own[t] - mean) * scale; });
    });
    on.for_rows(sequences, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t s) {
      row.each(width, [&](std::int64_t c) {
        float sum = 0;
        for (std::int64_t t = offsets[s]; t < offsets[s + 1]; ++t)
          sum += ds[c / d * tokens + t] * get(kv[2 * t * width + c]);
        dq[s * width + c] = put<T>(sum);
      });
    });
    on.for_rows(sequences, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t s) {
      row.each(offsets[s + 1] - offsets[s], width, [&](std::int64_t i, std::int64_t c) {
        const std::int64_t t = offsets[s] + i;
        d_kv[2 * t * width + c] = put<T>(ds[c / d * tokens + t] * get(q[s * width + c]));
      });
    });
    on.for_rows(sequences, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t s) {
      row.each(offsets[s + 1] - offsets[s], width, [&](std::int64_t i, std::int64_t c) {
        const std::int64_t t = offsets[s] + i;
        d_kv[(2 * t + 1) * width + c] = put<T>(probabilities[c / d * tokens + t] * get(d_out[s * width + c]));
      });
    });
  }
};

}  // namespace dino::bench::textbook
