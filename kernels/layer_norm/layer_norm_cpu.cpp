#include "kernels/common/parallel.h"
#include "kernels/layer_norm/layer_norm.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/layer_norm/layer_norm_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::HWY_NAMESPACE {
namespace {  // the same names serve other kernels

namespace hn = hwy::HWY_NAMESPACE;
using simd::HWY_NAMESPACE::FloatTag;
using simd::HWY_NAMESPACE::FloatVector;
using simd::HWY_NAMESPACE::load;
using simd::HWY_NAMESPACE::load_tail;
using simd::HWY_NAMESPACE::store;
using simd::HWY_NAMESPACE::store_tail;

/// Calls body(c, Whole{}) for every full vector of a row of `width` elements and body(c, Tail{n}) for the rest.
struct Whole {
  template <typename T>
  HWY_INLINE FloatVector get(FloatTag d, const T* p) const {
    return load(d, p);
  }
  template <typename T>
  HWY_INLINE void put(FloatTag d, FloatVector v, T* p) const {
    store(d, v, p);
  }
};
struct Tail {
  std::size_t n;
  template <typename T>
  HWY_INLINE FloatVector get(FloatTag d, const T* p) const {
    return load_tail(d, p, n);
  }
  template <typename T>
  HWY_INLINE void put(FloatTag d, FloatVector v, T* p) const {
    store_tail(d, v, p, n);
  }
};
template <typename Body>
HWY_INLINE void for_row(FloatTag d, std::size_t width, Body body) {
  const std::size_t lanes = hn::Lanes(d);
  std::size_t c = 0;
  for (; c + lanes <= width; c += lanes) body(c, Whole{});
  if (c < width) body(c, Tail{width - c});
}

template <typename T>
void forward_rows(const LayerNormForward& args, std::int64_t begin, std::int64_t end) {
  const FloatTag d;
  const auto width = static_cast<std::size_t>(args.x.extent(1));
  const float inverse_width = 1.0F / static_cast<float>(width);
  const float* gamma = args.gamma.as<float>();
  const float* beta = args.beta.as<float>();
  for (std::int64_t t = begin; t < end; ++t) {
    const std::size_t row = static_cast<std::size_t>(t) * width;
    const T* x = args.x.as<T>() + row;
    T* y = args.normalized.as<T>() + row;

    FloatVector total = hn::Zero(d);
    if (args.branch) {
      const T* branch = args.branch.as<T>() + row;
      T* sum = args.sum.as<T>() + row;
      const auto scale =
          hn::Set(d, args.branch_scale ? args.branch_scale.as<float>()[args.row_sequence.as<std::int32_t>()[t]] : 1.0F);
      for_row(d, width, [&](std::size_t c, auto io) {
        io.put(d, hn::MulAdd(scale, io.get(d, branch + c), io.get(d, x + c)), sum + c);
        total = hn::Add(total, io.get(d, sum + c));  // as stored: rounded where the element type is bf16
      });
      x = sum;
    } else {
      for_row(d, width, [&](std::size_t c, auto io) { total = hn::Add(total, io.get(d, x + c)); });
    }
    const float mean = hn::GetLane(hn::SumOfLanes(d, total)) * inverse_width;

    const auto mean_v = hn::Set(d, mean);
    FloatVector squares = hn::Zero(d);
    const std::size_t lanes = hn::Lanes(d);
    std::size_t c = 0;
    for (; c + lanes <= width; c += lanes) {
      const auto centred = hn::Sub(load(d, x + c), mean_v);
      squares = hn::MulAdd(centred, centred, squares);
    }
    float rest = 0;
    for (; c < width; ++c) {
      const float centred = static_cast<float>(x[c]) - mean;
      rest += centred * centred;
    }
    const float variance = (hn::GetLane(hn::SumOfLanes(d, squares)) + rest) * inverse_width;
    const float rstd = 1.0F / std::sqrt(variance + static_cast<float>(args.eps));

    const auto rstd_v = hn::Set(d, rstd);
    for_row(d, width, [&](std::size_t i, auto io) {
      const auto normal = hn::Mul(hn::Sub(io.get(d, x + i), mean_v), rstd_v);
      io.put(d, hn::MulAdd(normal, io.get(d, gamma + i), io.get(d, beta + i)), y + i);
    });
    if (args.mean) args.mean.as<float>()[t] = mean;
    if (args.rstd) args.rstd.as<float>()[t] = rstd;
  }
}

/// Writes or adds total to dx, and total times the row's factor to d_branch, at element `at` and the following ones.
template <typename T>
struct BackwardOutput {
  BackwardOutput(const LayerNormBackward& args, std::int64_t t, std::size_t row)
      : args_(args),
        scale_(args.branch_scale ? args.branch_scale.as<float>()[args.row_sequence.as<std::int32_t>()[t]] : 1.0F),
        dx_(args.dx_mode != GradientMode::ignore ? args.dx.as<T>() + row : nullptr),
        d_branch_(args.d_branch_mode != GradientMode::ignore ? args.d_branch.as<T>() + row : nullptr) {}

  HWY_INLINE void put(FloatTag d, FloatVector total, std::size_t c, auto io) const {
    if (dx_ != nullptr) put_one(d, total, dx_ + c, args_.dx_mode, io);
    if (d_branch_ != nullptr) put_one(d, hn::Mul(hn::Set(d, scale_), total), d_branch_ + c, args_.d_branch_mode, io);
  }

 private:
  HWY_INLINE static void put_one(FloatTag d, FloatVector value, T* p, GradientMode mode, auto io) {
    io.put(d, mode == GradientMode::accumulate ? hn::Add(value, io.get(d, p)) : value, p);
  }

  const LayerNormBackward& args_;
  float scale_;
  T* dx_;
  T* d_branch_;
};

/// Rows [begin, end) when no gradient came through the normalisation.
template <typename T>
void pass_rows(const LayerNormBackward& args, std::int64_t begin, std::int64_t end) {
  const FloatTag d;
  const auto width = static_cast<std::size_t>(args.sum.extent(1));
  for (std::int64_t t = begin; t < end; ++t) {
    const std::size_t row = static_cast<std::size_t>(t) * width;
    const T* d_sum = args.d_sum.as<T>() + row;
    const BackwardOutput<T> output(args, t, row);
    for_row(d, width, [&](std::size_t c, auto io) { output.put(d, io.get(d, d_sum + c), c, io); });
  }
}

/// Rows [begin, end): dx and d_branch, and their share of dgamma and dbeta in `partial` (2, C).
template <typename T>
void backward_rows(const LayerNormBackward& args, std::int64_t begin, std::int64_t end, float* partial) {
  const FloatTag d;
  const auto width = static_cast<std::size_t>(args.sum.extent(1));
  const float inverse_width = 1.0F / static_cast<float>(width);
  const float* gamma = args.gamma.as<float>();
  const bool wants_inputs = args.dx_mode != GradientMode::ignore || args.d_branch_mode != GradientMode::ignore;
  float* dgamma = partial;
  float* dbeta = partial + width;
  std::fill(partial, partial + 2 * width, 0.0F);
  for (std::int64_t t = begin; t < end; ++t) {
    const std::size_t row = static_cast<std::size_t>(t) * width;
    const T* x = args.sum.as<T>() + row;
    const T* dy = args.d_normalized.as<T>() + row;
    const auto mean = hn::Set(d, args.mean.as<float>()[t]);
    const auto rstd = hn::Set(d, args.rstd.as<float>()[t]);

    FloatVector g_sum = hn::Zero(d);
    FloatVector gn_sum = hn::Zero(d);
    for_row(d, width, [&](std::size_t c, auto io) {
      const auto dy_v = io.get(d, dy + c);  // zero past the end, so that a tail adds nothing
      const auto normal = hn::Mul(hn::Sub(io.get(d, x + c), mean), rstd);
      const auto g = hn::Mul(dy_v, io.get(d, gamma + c));
      g_sum = hn::Add(g_sum, g);
      gn_sum = hn::MulAdd(g, normal, gn_sum);
      io.put(d, hn::MulAdd(dy_v, normal, io.get(d, dgamma + c)), dgamma + c);
      io.put(d, hn::Add(dy_v, io.get(d, dbeta + c)), dbeta + c);
    });
    if (!wants_inputs) continue;

    const auto mean_g = hn::Set(d, hn::GetLane(hn::SumOfLanes(d, g_sum)) * inverse_width);
    const auto mean_gn = hn::Set(d, hn::GetLane(hn::SumOfLanes(d, gn_sum)) * inverse_width);
    const T* d_sum = args.d_sum ? args.d_sum.as<T>() + row : nullptr;
    const BackwardOutput<T> output(args, t, row);
    for_row(d, width, [&](std::size_t c, auto io) {
      const auto normal = hn::Mul(hn::Sub(io.get(d, x + c), mean), rstd);
      const auto g = hn::Mul(io.get(d, dy + c), io.get(d, gamma + c));
      auto total = hn::Mul(rstd, hn::NegMulAdd(normal, mean_gn, hn::Sub(g, mean_g)));
      if (d_sum != nullptr) total = hn::Add(total, io.get(d, d_sum + c));
      output.put(d, total, c, io);
    });
  }
}

void forward(const LayerNormForward& args) {
  visit_compute_type(args.x.dtype(), "layer_norm", [&](auto zero) {
    parallel_for(args.x.extent(0), 16,
                 [&](std::int64_t begin, std::int64_t end) { forward_rows<decltype(zero)>(args, begin, end); });
  });
}

void backward(const LayerNormBackward& args, float* partials, std::int64_t blocks) {
  const std::int64_t rows = args.sum.extent(0);
  const std::int64_t width = args.sum.extent(1);
  visit_compute_type(args.sum.dtype(), "layer_norm_backward", [&](auto zero) {
    if (!args.d_normalized) {
      parallel_for(rows, 16,
                   [&](std::int64_t begin, std::int64_t end) { pass_rows<decltype(zero)>(args, begin, end); });
      return;
    }
    parallel_for(blocks, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t block = begin; block < end; ++block) {
        const auto [first, last] = thread_range(rows, static_cast<int>(block), static_cast<int>(blocks));
        backward_rows<decltype(zero)>(args, first, last, partials + block * 2 * width);
      }
    });
  });
  // Blocks are added in their order, column by column.
  const auto reduce = [&](const Array& gradient, GradientMode mode, const float* partial) {
    if (mode == GradientMode::ignore) return;
    float* out = gradient.as<float>();
    for (std::int64_t c = 0; c < width; ++c) {
      float sum = 0;
      for (std::int64_t block = 0; block < blocks; ++block) sum += partial[block * 2 * width + c];
      out[c] = mode == GradientMode::accumulate ? out[c] + sum : sum;
    }
  };
  reduce(args.dgamma, args.dgamma_mode, partials);
  reduce(args.dbeta, args.dbeta_mode, partials + width);
}

}  // namespace
}  // namespace dino::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu {

HWY_EXPORT(forward);
HWY_EXPORT(backward);

void layer_norm_forward(const LayerNormForward& args, Stream&) {
  check_layer_norm(args);
  HWY_DYNAMIC_DISPATCH(forward)(args);
}

void layer_norm_backward(const LayerNormBackward& args, Stream& stream) {
  check_layer_norm(args);
  // Enough blocks to share among threads, few enough that their sums stay in the cache.
  const std::int64_t blocks = std::clamp<std::int64_t>(args.sum.extent(0) / 16, 1, 64);
  auto* partials =
      static_cast<float*>(stream.scratch(static_cast<std::size_t>(blocks * 2 * args.sum.extent(1)) * sizeof(float)));
  HWY_DYNAMIC_DISPATCH(backward)(args, partials, blocks);
}

}  // namespace dino::cpu
#endif
