#include "kernels/attention/cls_attention.h"
#include "kernels/common/parallel.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/cls_attention_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using simd::HWY_NAMESPACE::FloatTag;
using simd::HWY_NAMESPACE::load;
using simd::HWY_NAMESPACE::store;

template <typename T>
HWY_INLINE float dot(const float* a, const T* b, std::size_t n) {
  const FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  auto sum = hn::Zero(d);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) sum = hn::MulAdd(load(d, a + i), load(d, b + i), sum);
  float result = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < n; ++i) result += a[i] * static_cast<float>(b[i]);
  return result;
}

/// y += factor · x
template <typename T>
HWY_INLINE void add_scaled(float factor, const T* x, float* y, std::size_t n) {
  const FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  const auto factor_v = hn::Set(d, factor);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) store(d, hn::MulAdd(factor_v, load(d, x + i), load(d, y + i)), y + i);
  for (; i < n; ++i) y[i] += factor * static_cast<float>(x[i]);
}

/// y = factor · x, or y += factor · x
template <typename T>
HWY_INLINE void put_scaled(float factor, const float* x, T* y, std::size_t n, GradientMode mode) {
  const FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  const auto factor_v = hn::Set(d, factor);
  const bool accumulate = mode == GradientMode::accumulate;
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto value = hn::Mul(factor_v, load(d, x + i));
    store(d, accumulate ? hn::Add(value, load(d, y + i)) : value, y + i);
  }
  for (; i < n; ++i) y[i] = T(factor * x[i] + (accumulate ? static_cast<float>(y[i]) : 0.0F));
}

template <typename T>
void widen(const T* x, float* y, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) y[i] = static_cast<float>(x[i]);
}

/// All heads of one sequence, row by row, as kv lies in memory. `scratch`: 2C floats.
template <typename T>
void cls_forward_sequence(const ClsAttentionForward& args, std::int64_t s, float* scratch) {
  const std::int64_t width = args.q.extent(1);
  const std::int64_t rows = args.kv.extent(0);
  const auto head = static_cast<std::size_t>(width / args.heads);
  const std::int64_t begin = args.offsets.as<std::int32_t>()[s];
  const std::int64_t end = args.offsets.as<std::int32_t>()[s + 1];
  const T* kv = args.kv.as<T>();
  float* probabilities = args.probabilities.as<float>();
  float* q = scratch;
  float* out = scratch + width;
  const float scale = 1.0F / std::sqrt(static_cast<float>(head));
  widen(args.q.as<T>() + s * width, q, static_cast<std::size_t>(width));
  for (std::int64_t t = begin; t < end; ++t) {
    for (std::int64_t h = 0; h < args.heads; ++h) {
      const std::int64_t at = h * static_cast<std::int64_t>(head);
      probabilities[h * rows + t] = scale * dot(q + at, kv + t * 2 * width + at, head);
    }
  }
  for (std::int64_t h = 0; h < args.heads; ++h) {
    float* p = probabilities + h * rows;
    const float largest = *std::max_element(p + begin, p + end);
    float sum = 0;
    for (std::int64_t t = begin; t < end; ++t) sum += p[t] = std::exp(p[t] - largest);
    for (std::int64_t t = begin; t < end; ++t) p[t] /= sum;
  }
  std::fill(out, out + width, 0.0F);
  for (std::int64_t t = begin; t < end; ++t) {
    for (std::int64_t h = 0; h < args.heads; ++h) {
      const std::int64_t at = h * static_cast<std::int64_t>(head);
      add_scaled(probabilities[h * rows + t], kv + t * 2 * width + width + at, out + at, head);
    }
  }
  put_scaled(1.0F, out, args.out.as<T>() + s * width, static_cast<std::size_t>(width), GradientMode::overwrite);
}

/// `scratch`: 3C + max_length · H floats.
template <typename T>
void cls_backward_sequence(const ClsAttentionBackward& args, std::int64_t s, float* scratch) {
  const std::int64_t width = args.q.extent(1);
  const std::int64_t rows = args.kv.extent(0);
  const std::int64_t heads = args.heads;
  const auto head = static_cast<std::size_t>(width / heads);
  const std::int64_t begin = args.offsets.as<std::int32_t>()[s];
  const std::int64_t end = args.offsets.as<std::int32_t>()[s + 1];
  const T* kv = args.kv.as<T>();
  const float* probabilities = args.probabilities.as<float>();
  float* q = scratch;
  float* d_out = q + width;
  float* dq = d_out + width;
  float* ds = dq + width;  // (N, H)
  const float scale = 1.0F / std::sqrt(static_cast<float>(head));
  widen(args.q.as<T>() + s * width, q, static_cast<std::size_t>(width));
  widen(args.d_out.as<T>() + s * width, d_out, static_cast<std::size_t>(width));
  std::fill(dq, dq + width, 0.0F);

  for (std::int64_t t = begin; t < end; ++t) {
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t at = h * static_cast<std::int64_t>(head);
      ds[(t - begin) * heads + h] = dot(d_out + at, kv + t * 2 * width + width + at, head);
    }
  }
  for (std::int64_t h = 0; h < heads; ++h) {
    const float* p = probabilities + h * rows;
    float mean = 0;
    for (std::int64_t t = begin; t < end; ++t) mean += p[t] * ds[(t - begin) * heads + h];
    for (std::int64_t t = begin; t < end; ++t) {
      float& value = ds[(t - begin) * heads + h];
      value = scale * p[t] * (value - mean);
    }
  }
  for (std::int64_t t = begin; t < end; ++t) {
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t at = h * static_cast<std::int64_t>(head);
      const float factor = ds[(t - begin) * heads + h];
      add_scaled(factor, kv + t * 2 * width + at, dq + at, head);
      if (args.d_kv_mode == GradientMode::ignore) continue;
      T* d_kv = args.d_kv.as<T>() + t * 2 * width + at;
      put_scaled(factor, q + at, d_kv, head, args.d_kv_mode);
      put_scaled(probabilities[h * rows + t], d_out + at, d_kv + width, head, args.d_kv_mode);
    }
  }
  if (args.dq_mode == GradientMode::ignore) return;
  put_scaled(1.0F, dq, args.dq.as<T>() + s * width, static_cast<std::size_t>(width), args.dq_mode);
}

void cls_forward(const ClsAttentionForward& args, float* scratch, std::int64_t share) {
  visit_compute_type(args.kv.dtype(), "cls_attention", [&](auto zero) {
    parallel_for(args.q.extent(0), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t s = begin; s < end; ++s) {
        cls_forward_sequence<decltype(zero)>(args, s, scratch + omp_get_thread_num() * share);
      }
    });
  });
}

void cls_backward(const ClsAttentionBackward& args, float* scratch, std::int64_t share) {
  visit_compute_type(args.kv.dtype(), "cls_attention_backward", [&](auto zero) {
    parallel_for(args.q.extent(0), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t s = begin; s < end; ++s) {
        cls_backward_sequence<decltype(zero)>(args, s, scratch + omp_get_thread_num() * share);
      }
    });
  });
}

}  // namespace
}  // namespace dino::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu {
namespace {

HWY_EXPORT(cls_forward);
HWY_EXPORT(cls_backward);

float* thread_scratch(Stream& stream, std::int64_t share) {
  return static_cast<float*>(stream.scratch(static_cast<std::size_t>(share * omp_get_max_threads()) * sizeof(float)));
}

}  // namespace

void cls_attention_forward(const ClsAttentionForward& args, Stream& stream) {
  check_attention(args);
  const std::int64_t share = 2 * args.q.extent(1) + 16;
  HWY_DYNAMIC_DISPATCH(cls_forward)(args, thread_scratch(stream, share), share);
}

void cls_attention_backward(const ClsAttentionBackward& args, Stream& stream) {
  check_attention(args);
  if (args.dq_mode == GradientMode::ignore && args.d_kv_mode == GradientMode::ignore) return;
  const std::int64_t share = 3 * args.q.extent(1) + static_cast<std::int64_t>(args.max_length) * args.heads + 16;
  HWY_DYNAMIC_DISPATCH(cls_backward)(args, thread_scratch(stream, share), share);
}

}  // namespace dino::cpu
#endif
