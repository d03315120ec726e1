#include "kernels/attention/attention.h"
#include "kernels/common/parallel.h"

#include <cmath>

namespace dino::cpu {
namespace {

template <typename T>
void put(T* gradient, GradientMode mode, float value) {
  *gradient = T(mode == GradientMode::accumulate ? static_cast<float>(*gradient) + value : value);
}

float dot(const auto* a, const auto* b, std::int64_t n) {
  float sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<float>(a[i]) * static_cast<float>(b[i]);
  return sum;
}

}  // namespace

void attention_forward(const AttentionForward& args, Stream& stream) {
  check_attention(args);
  const std::int64_t heads = args.heads;
  const std::int64_t rows = args.qkv.extent(0);
  const std::int64_t width = args.qkv.extent(1) / 3;
  const std::int64_t head = width / heads;
  const auto* offsets = args.offsets.as<std::int32_t>();
  const float scale = 1.0F / std::sqrt(static_cast<float>(head));
  auto* scratch = static_cast<float*>(
      stream.scratch(static_cast<std::size_t>(omp_get_max_threads() * (args.max_length + head)) * sizeof(float)));
  visit_compute_type(args.qkv.dtype(), "attention", [&](auto zero) {
    using T = decltype(zero);
    const T* qkv = args.qkv.as<T>();
    parallel_for((args.offsets.extent(0) - 1) * heads, 1, [&](std::int64_t first, std::int64_t last) {
      float* p = scratch + omp_get_thread_num() * (args.max_length + head);
      float* sum = p + args.max_length;
      for (std::int64_t item = first; item < last; ++item) {
        const std::int64_t h = item % heads;
        const std::int64_t begin = offsets[item / heads];
        const std::int64_t length = offsets[item / heads + 1] - begin;
        for (std::int64_t i = 0; i < length; ++i) {
          const T* q = qkv + (begin + i) * 3 * width + h * head;
          float largest = -INFINITY;
          for (std::int64_t j = 0; j < length; ++j) {
            p[j] = scale * dot(q, qkv + (begin + j) * 3 * width + width + h * head, head);
            largest = std::max(largest, p[j]);
          }
          float total = 0;
          std::fill(sum, sum + head, 0.0F);
          for (std::int64_t j = 0; j < length; ++j) {
            p[j] = std::exp(p[j] - largest);
            total += p[j];
            const T* v = qkv + (begin + j) * 3 * width + 2 * width + h * head;
            for (std::int64_t c = 0; c < head; ++c) sum[c] += p[j] * static_cast<float>(v[c]);
          }
          for (std::int64_t c = 0; c < head; ++c)
            args.out.as<T>()[(begin + i) * width + h * head + c] = T(sum[c] / total);
          if (args.logsumexp) args.logsumexp.as<float>()[h * rows + begin + i] = largest + std::log(total);
        }
      }
    });
  });
}

void attention_backward(const AttentionBackward& args, Stream& stream) {
  check_attention(args);
  if (args.mode == GradientMode::ignore) return;
  const std::int64_t heads = args.heads;
  const std::int64_t rows = args.qkv.extent(0);
  const std::int64_t width = args.qkv.extent(1) / 3;
  const std::int64_t head = width / heads;
  const auto* offsets = args.offsets.as<std::int32_t>();
  const float scale = 1.0F / std::sqrt(static_cast<float>(head));
  const std::int64_t share = (2 * args.max_length + 1) * head;
  auto* scratch =
      static_cast<float*>(stream.scratch(static_cast<std::size_t>(omp_get_max_threads() * share) * sizeof(float)));
  visit_compute_type(args.qkv.dtype(), "attention_backward", [&](auto zero) {
    using T = decltype(zero);
    const T* qkv = args.qkv.as<T>();
    T* d_qkv = args.d_qkv.as<T>();
    parallel_for((args.offsets.extent(0) - 1) * heads, 1, [&](std::int64_t first, std::int64_t last) {
      float* dk = scratch + omp_get_thread_num() * share;
      float* dv = dk + args.max_length * head;
      float* dq = dv + args.max_length * head;
      for (std::int64_t item = first; item < last; ++item) {
        const std::int64_t h = item % heads;
        const std::int64_t begin = offsets[item / heads];
        const std::int64_t length = offsets[item / heads + 1] - begin;
        std::fill(dk, dk + length * head, 0.0F);
        std::fill(dv, dv + length * head, 0.0F);
        for (std::int64_t i = 0; i < length; ++i) {
          const std::int64_t at = (begin + i) * 3 * width + h * head;
          const T* d_out = args.d_out.as<T>() + (begin + i) * width + h * head;
          const float delta = dot(d_out, args.out.as<T>() + (begin + i) * width + h * head, head);
          const float logsumexp = args.logsumexp.as<float>()[h * rows + begin + i];
          std::fill(dq, dq + head, 0.0F);
          for (std::int64_t j = 0; j < length; ++j) {
            const T* k = qkv + (begin + j) * 3 * width + width + h * head;
            const float p = std::exp(scale * dot(qkv + at, k, head) - logsumexp);
            const float ds = scale * p * (dot(d_out, k + width, head) - delta);
            for (std::int64_t c = 0; c < head; ++c) {
              dq[c] += ds * static_cast<float>(k[c]);
              dk[j * head + c] += ds * static_cast<float>(qkv[at + c]);
              dv[j * head + c] += p * static_cast<float>(d_out[c]);
            }
          }
          for (std::int64_t c = 0; c < head; ++c) put(d_qkv + at + c, args.mode, dq[c]);
        }
        for (std::int64_t j = 0; j < length; ++j) {
          T* row = d_qkv + (begin + j) * 3 * width + h * head;
          for (std::int64_t c = 0; c < head; ++c) {
            put(row + width + c, args.mode, dk[j * head + c]);
            put(row + 2 * width + c, args.mode, dv[j * head + c]);
          }
        }
      }
    });
  });
}

}  // namespace dino::cpu
