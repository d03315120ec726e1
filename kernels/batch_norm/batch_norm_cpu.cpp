#include "kernels/batch_norm/batch_norm.h"
#include "kernels/common/parallel.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/batch_norm/batch_norm_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace simd = dino::simd::HWY_NAMESPACE;

// Columns are worked on in stretches whose per-column values stay on the stack. Long ones, because each row is another
// page: short pieces of it defeat the prefetcher.
constexpr std::int64_t kColumns = 1024;
constexpr std::int64_t kGrain = 64;  // columns, the unit that threads share
constexpr std::int64_t kBlock = 32;  // rows that are summed on their own

// sum += x
template <typename T>
HWY_ATTR void add_values(const T* x, std::size_t n, float* sum) {
  const simd::FloatTag d;
  for (std::size_t i = 0; i < n; i += hn::Lanes(d)) {
    hn::Store(hn::Add(hn::Load(d, sum + i), simd::load_up_to(d, x + i, n - i)), d, sum + i);
  }
}

// sum += (x - mean)²
template <typename T>
HWY_ATTR void add_squares(const T* x, const float* mean, std::size_t n, float* sum) {
  const simd::FloatTag d;
  for (std::size_t i = 0; i < n; i += hn::Lanes(d)) {
    const auto v = hn::Sub(simd::load_up_to(d, x + i, n - i), hn::Load(d, mean + i));
    hn::Store(hn::MulAdd(v, v, hn::Load(d, sum + i)), d, sum + i);
  }
}

// sum += dy and sum_normalized += dy · (x - mean)
template <typename T>
HWY_ATTR void add_gradients(const T* x, const T* dy, const float* mean, std::size_t n, float* sum,
                            float* sum_normalized) {
  const simd::FloatTag d;
  for (std::size_t i = 0; i < n; i += hn::Lanes(d)) {
    const auto v = hn::Sub(simd::load_up_to(d, x + i, n - i), hn::Load(d, mean + i));
    const auto g = simd::load_up_to(d, dy + i, n - i);
    hn::Store(hn::Add(hn::Load(d, sum + i), g), d, sum + i);
    hn::Store(hn::MulAdd(g, v, hn::Load(d, sum_normalized + i)), d, sum_normalized + i);
  }
}

// y = scale · x + shift, per column
template <typename T>
HWY_ATTR void normalize_row(const T* x, const float* mean, const float* scale, const float* shift, std::size_t n,
                            T* y) {
  const simd::FloatTag d;
  for (std::size_t i = 0; i < n; i += hn::Lanes(d)) {
    const auto v = hn::Sub(simd::load_up_to(d, x + i, n - i), hn::Load(d, mean + i));
    simd::store_up_to(d, hn::MulAdd(v, hn::Load(d, scale + i), hn::Load(d, shift + i)), y + i, n - i);
  }
}

// dx = scale · (dy - offset - (x - mean) · slope), per column
template <typename T>
HWY_ATTR void backward_row(const T* x, const T* dy, const float* mean, const float* scale, const float* offset,
                           const float* slope, std::size_t n, T* dx, GradientMode mode) {
  const simd::FloatTag d;
  for (std::size_t i = 0; i < n; i += hn::Lanes(d)) {
    const auto v = hn::Sub(simd::load_up_to(d, x + i, n - i), hn::Load(d, mean + i));
    const auto through = hn::MulAdd(v, hn::Load(d, slope + i), hn::Load(d, offset + i));
    const auto direct = hn::Sub(simd::load_up_to(d, dy + i, n - i), through);
    simd::store_gradient(d, hn::Mul(hn::Load(d, scale + i), direct), dx + i, n - i, mode);
  }
}

// Calls body(column, columns) on stretches of at most kColumns columns.
template <typename Body>
void for_columns(std::int64_t width, Body&& body) {
  parallel_for((width + kGrain - 1) / kGrain, 4, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t last = std::min(width, end * kGrain);
    for (std::int64_t column = begin * kGrain; column < last; column += kColumns)
      body(column, std::min(kColumns, last - column));
  });
}

// Adds up rows with add(row, sums) in blocks of kBlock; `total` and `block` have room for `values` floats.
template <typename Add>
void sum_blocks(std::int64_t rows, std::int64_t values, float* block, float* total, Add&& add) {
  std::fill_n(total, values, 0.0F);
  for (std::int64_t begin = 0; begin < rows; begin += kBlock) {
    std::fill_n(block, values, 0.0F);
    for (std::int64_t r = begin; r < std::min(rows, begin + kBlock); ++r) add(r, block);
    for (std::int64_t c = 0; c < values; ++c) total[c] += block[c];
  }
}

void sums_all(const BatchNormSums& args) {
  visit_compute_type(args.x.dtype(), "batch_norm", [&](auto type) {
    using T = decltype(type);
    const std::int64_t rows = args.x.extent(0), width = args.x.extent(1);
    for_columns(width, [&](std::int64_t column, std::int64_t columns) {
      HWY_ALIGN float block[kColumns], total[kColumns];
      const T* x = args.x.as<T>() + column;
      sum_blocks(rows, kColumns, block, total, [&](std::int64_t r, float* sum) {
        add_values(x + r * width, static_cast<std::size_t>(columns), sum);
      });
      std::copy_n(total, columns, args.sums.as<float>() + column);
    });
    args.sums.as<float>()[width] = static_cast<float>(rows);
  });
}

void squares_all(const BatchNormSquares& args) {
  visit_compute_type(args.x.dtype(), "batch_norm", [&](auto type) {
    using T = decltype(type);
    const std::int64_t rows = args.x.extent(0), width = args.x.extent(1);
    for_columns(width, [&](std::int64_t column, std::int64_t columns) {
      HWY_ALIGN float mean[kColumns] = {};
      HWY_ALIGN float block[kColumns], total[kColumns];
      for (std::int64_t c = 0; c < columns; ++c)
        mean[c] = args.sums.as<float>()[column + c] / args.sums.as<float>()[width];
      const T* x = args.x.as<T>() + column;
      sum_blocks(rows, kColumns, block, total, [&](std::int64_t r, float* sum) {
        add_squares(x + r * width, mean, static_cast<std::size_t>(columns), sum);
      });
      std::copy_n(total, columns, args.squares.as<float>() + column);
    });
  });
}

void forward_all(const BatchNormForward& args) {
  visit_compute_type(args.x.dtype(), "batch_norm", [&](auto type) {
    using T = decltype(type);
    const std::int64_t rows = args.x.extent(0), width = args.x.extent(1);
    const float count = args.sums.as<float>()[width];
    for_columns(width, [&](std::int64_t column, std::int64_t columns) {
      HWY_ALIGN float mean[kColumns] = {};
      HWY_ALIGN float scale[kColumns] = {};
      HWY_ALIGN float shift[kColumns] = {};
      for (std::int64_t c = 0; c < columns; ++c) {
        const std::int64_t at = column + c;
        const float square = args.squares.as<float>()[at];
        const float inverse_std = 1.0F / std::sqrt(square / count + static_cast<float>(args.eps));
        mean[c] = args.sums.as<float>()[at] / count;
        scale[c] = args.gamma.as<float>()[at] * inverse_std;
        shift[c] = args.beta.as<float>()[at];
        args.mean.as<float>()[at] = mean[c];
        args.inverse_std.as<float>()[at] = inverse_std;
        if (args.statistics) {
          args.statistics.as<float>()[at] = mean[c];
          args.statistics.as<float>()[width + at] = square / std::max(count - 1.0F, 1.0F);
        }
      }
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t at = r * width + column;
        normalize_row(args.x.as<T>() + at, mean, scale, shift, static_cast<std::size_t>(columns), args.y.as<T>() + at);
      }
    });
  });
}

void backward_sums_all(const BatchNormBackwardSums& args) {
  visit_compute_type(args.x.dtype(), "batch_norm", [&](auto type) {
    using T = decltype(type);
    const std::int64_t rows = args.x.extent(0), width = args.x.extent(1);
    for_columns(width, [&](std::int64_t column, std::int64_t columns) {
      HWY_ALIGN float mean[kColumns] = {};
      HWY_ALIGN float block[2 * kColumns], total[2 * kColumns];
      std::copy_n(args.mean.as<float>() + column, columns, mean);
      sum_blocks(rows, 2 * kColumns, block, total, [&](std::int64_t r, float* sum) {
        const std::int64_t at = r * width + column;
        add_gradients(args.x.as<T>() + at, args.dy.as<T>() + at, mean, static_cast<std::size_t>(columns), sum,
                      sum + kColumns);
      });
      for (std::int64_t c = 0; c < columns; ++c) {
        const std::int64_t at = column + c;
        const float d_beta = total[c];
        const float d_gamma = total[kColumns + c] * args.inverse_std.as<float>()[at];
        args.sums.as<float>()[at] = d_beta;
        args.sums.as<float>()[width + at] = d_gamma;
        if (args.beta_mode == GradientMode::overwrite) args.d_beta.as<float>()[at] = d_beta;
        if (args.beta_mode == GradientMode::accumulate) args.d_beta.as<float>()[at] += d_beta;
        if (args.gamma_mode == GradientMode::overwrite) args.d_gamma.as<float>()[at] = d_gamma;
        if (args.gamma_mode == GradientMode::accumulate) args.d_gamma.as<float>()[at] += d_gamma;
      }
    });
  });
}

void backward_all(const BatchNormBackward& args) {
  visit_compute_type(args.x.dtype(), "batch_norm", [&](auto type) {
    using T = decltype(type);
    const std::int64_t rows = args.x.extent(0), width = args.x.extent(1);
    const float count = args.forward_sums.as<float>()[width];
    for_columns(width, [&](std::int64_t column, std::int64_t columns) {
      HWY_ALIGN float mean[kColumns] = {};
      HWY_ALIGN float scale[kColumns] = {};
      HWY_ALIGN float offset[kColumns] = {};
      HWY_ALIGN float slope[kColumns] = {};
      for (std::int64_t c = 0; c < columns; ++c) {
        const std::int64_t at = column + c;
        const float inverse_std = args.inverse_std.as<float>()[at];
        mean[c] = args.mean.as<float>()[at];
        scale[c] = args.gamma.as<float>()[at] * inverse_std;
        offset[c] = args.sums.as<float>()[at] / count;
        slope[c] = args.sums.as<float>()[width + at] / count * inverse_std;
      }
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t at = r * width + column;
        backward_row(args.x.as<T>() + at, args.dy.as<T>() + at, mean, scale, offset, slope,
                     static_cast<std::size_t>(columns), args.dx.as<T>() + at, args.mode);
      }
    });
  });
}

}  // namespace dino::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu {

HWY_EXPORT(sums_all);
HWY_EXPORT(squares_all);
HWY_EXPORT(forward_all);
HWY_EXPORT(backward_sums_all);
HWY_EXPORT(backward_all);

void batch_norm_sums(const BatchNormSums& args, Stream&) {
  check_batch_norm(args);
  HWY_DYNAMIC_DISPATCH(sums_all)(args);
}

void batch_norm_squares(const BatchNormSquares& args, Stream&) {
  check_batch_norm(args);
  HWY_DYNAMIC_DISPATCH(squares_all)(args);
}

void batch_norm_forward(const BatchNormForward& args, Stream&) {
  check_batch_norm(args);
  HWY_DYNAMIC_DISPATCH(forward_all)(args);
}

void batch_norm_backward_sums(const BatchNormBackwardSums& args, Stream&) {
  check_batch_norm(args);
  HWY_DYNAMIC_DISPATCH(backward_sums_all)(args);
}

void batch_norm_backward(const BatchNormBackward& args, Stream&) {
  if (args.mode == GradientMode::ignore) return;
  check_batch_norm(args);
  HWY_DYNAMIC_DISPATCH(backward_all)(args);
}

}  // namespace dino::cpu
#endif
