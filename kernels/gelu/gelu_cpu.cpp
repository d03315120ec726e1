#include "kernels/gelu/gelu.h"

#include "kernels/column_sum/row_blocks.h"
#include "kernels/common/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gelu/gelu_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/column_sum/column_sum-inl.h"
#include "kernels/gelu/gelu-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace simd = dino::simd::HWY_NAMESPACE;

constexpr std::int64_t kGrain = 1 << 13;  // elements that are worth a thread

template <typename T>
void gelu_range(const T* x, T* y, std::size_t n) {
  const simd::FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) simd::store(d, simd::gelu(d, simd::load(d, x + i)), y + i);
  if (i < n) simd::store_tail(d, simd::gelu(d, simd::load_tail(d, x + i, n - i)), y + i, n - i);
}

/// One row: dx, and its sum onto `sums` where that is not null.
template <bool kAccumulate, bool kStore, typename T>
void gelu_gradient_range(const T* x, const T* dy, T* dx, float* sums, std::size_t n) {
  const simd::FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto gradient = hn::Mul(simd::load(d, dy + i), simd::gelu_slope(d, simd::load(d, x + i)));
    if (sums != nullptr) simd::store(d, hn::Add(simd::load(d, sums + i), gradient), sums + i);
    if constexpr (kStore) simd::store(d, kAccumulate ? hn::Add(simd::load(d, dx + i), gradient) : gradient, dx + i);
  }
  if (i < n) {
    const std::size_t rest = n - i;
    const auto gradient =
        hn::Mul(simd::load_tail(d, dy + i, rest), simd::gelu_slope(d, simd::load_tail(d, x + i, rest)));
    if (sums != nullptr) simd::store_tail(d, hn::Add(simd::load_tail(d, sums + i, rest), gradient), sums + i, rest);
    if constexpr (kStore) {
      simd::store_tail(d, kAccumulate ? hn::Add(simd::load_tail(d, dx + i, rest), gradient) : gradient, dx + i, rest);
    }
  }
}

template <typename T>
void gelu_gradient_range(const T* x, const T* dy, T* dx, float* sums, std::size_t n, GradientMode mode) {
  switch (mode) {
    case GradientMode::ignore: return gelu_gradient_range<false, false>(x, dy, dx, sums, n);
    case GradientMode::overwrite: return gelu_gradient_range<false, true>(x, dy, dx, sums, n);
    case GradientMode::accumulate: return gelu_gradient_range<true, true>(x, dy, dx, sums, n);
  }
}

void gelu_forward_all(const GeluForward& args) {
  visit_compute_type(args.x.dtype(), "gelu", [&](auto t) {
    const auto* x = args.x.as<decltype(t)>();
    auto* y = args.y.as<decltype(t)>();
    parallel_for(args.x.size(), kGrain, [=](std::int64_t begin, std::int64_t end) {
      gelu_range(x + begin, y + begin, static_cast<std::size_t>(end - begin));
    });
  });
}

void gelu_backward_all(const GeluBackward& args, float* partial) {
  visit_compute_type(args.x.dtype(), "gelu", [&](auto t) {
    using T = decltype(t);
    const T* x = args.x.as<T>();
    const T* dy = args.dy.as<T>();
    T* dx = args.mode == GradientMode::ignore ? nullptr : args.dx.as<T>();
    const GradientMode mode = args.mode;
    if (partial == nullptr) {
      parallel_for(args.x.size(), kGrain, [=](std::int64_t begin, std::int64_t end) {
        T* to = dx == nullptr ? nullptr : dx + begin;
        gelu_gradient_range(x + begin, dy + begin, to, nullptr, static_cast<std::size_t>(end - begin), mode);
      });
      return;
    }
    const std::int64_t columns = args.x.extent(-1);
    const RowBlocks blocks(args.x.size() / columns);
    const std::int64_t grain = std::max<std::int64_t>(1, kGrain / (blocks.height * columns));
    parallel_for(blocks.count, grain, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t block = begin; block < end; ++block) {
        float* sums = partial + block * columns;
        std::fill_n(sums, columns, 0.0F);
        for (std::int64_t row = blocks.begin(block); row < blocks.end(block); ++row) {
          const std::int64_t at = row * columns;
          T* to = dx == nullptr ? nullptr : dx + at;
          gelu_gradient_range(x + at, dy + at, to, sums, static_cast<std::size_t>(columns), mode);
        }
      }
    });
    simd::sum_blocks(partial, blocks.count, columns, args.dbias.as<float>(), args.dbias_mode);
  });
}

}  // namespace dino::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu {

HWY_EXPORT(gelu_forward_all);
HWY_EXPORT(gelu_backward_all);

void gelu_forward(const GeluForward& args, Stream&) {
  check_gelu(args);
  HWY_DYNAMIC_DISPATCH(gelu_forward_all)(args);
}

void gelu_backward(const GeluBackward& args, Stream& stream) {
  check_gelu(args);
  float* partial = nullptr;
  if (args.dbias_mode != GradientMode::ignore) {
    const std::int64_t columns = args.x.extent(-1);
    const RowBlocks blocks(args.x.size() / columns);
    partial = static_cast<float*>(stream.scratch(static_cast<std::size_t>(blocks.count * columns) * sizeof(float)));
  } else if (args.mode == GradientMode::ignore) {
    return;
  }
  HWY_DYNAMIC_DISPATCH(gelu_backward_all)(args, partial);
}

}  // namespace dino::cpu
#endif
