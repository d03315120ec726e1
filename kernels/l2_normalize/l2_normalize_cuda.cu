#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/rows.h"
#include "kernels/common/gradient_mode.h"
#include "kernels/l2_normalize/l2_normalize.h"

namespace dino::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarpSize;

/// A warp per row; the row comes from the cache the second time.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads) normalize_rows(const T* x, T* y, std::int64_t rows, int width, float eps) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
  if (row >= rows) return;  // all lanes of a warp together
  x += row * width;
  y += row * width;
  const float norm = sqrtf(row_dot<N>(x, x, width));
  // Written so that NaN stays NaN.
  const float scale = 1.0F / (norm < eps ? eps : norm);
  for (int c = first_column<N>(); c < width; c += kWarpSize * N) {
    float values[N];
    load(x + c, values);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] *= scale;
    store(values, y + c);
  }
}

/// A warp per row; x and dy come from the cache the second time.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    backward_rows(const T* x, const T* dy, T* dx, std::int64_t rows, int width, float eps, bool adds) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
  if (row >= rows) return;  // all lanes of a warp together
  x += row * width;
  dy += row * width;
  dx += row * width;
  const float norm = sqrtf(row_dot<N>(x, x, width));
  const float inverse = 1.0F / (norm < eps ? eps : norm);
  const float dot = row_dot<N>(x, dy, width);
  const float along = norm < eps ? 0.0F : dot * inverse * inverse * inverse;
  for (int c = first_column<N>(); c < width; c += kWarpSize * N) {
    float values[N];
    float gradient[N];
    float result[N] = {};
    load(x + c, values);
    load(dy + c, gradient);
    if (adds) load(dx + c, result);
#pragma unroll
    for (int i = 0; i < N; ++i) result[i] += inverse * gradient[i] - along * values[i];
    store(result, dx + c);
  }
}

}  // namespace

void l2_normalize(const L2Normalize& args, Stream& stream) {
  check_l2_normalize(args);
  const std::int64_t rows = args.x.extent(0);
  const std::int64_t width = args.x.extent(1);
  visit_compute_type(args.x.dtype(), "l2_normalize", [&](auto zero) {
    using T = decltype(zero);
    with_pack<T>(pack_size<T>(width, args.x, args.y), [&](auto n) {
      launch(normalize_rows<T, n>, {blocks_for(rows, kWarps), kThreads}, stream, args.x.as<T>(), args.y.as<T>(), rows,
             static_cast<int>(width), static_cast<float>(args.eps));
    });
  });
}

void l2_normalize_backward(const L2NormalizeBackward& args, Stream& stream) {
  if (args.mode == GradientMode::ignore) return;
  check_l2_normalize(args);
  const std::int64_t rows = args.x.extent(0);
  const std::int64_t width = args.x.extent(1);
  visit_compute_type(args.x.dtype(), "l2_normalize_backward", [&](auto zero) {
    using T = decltype(zero);
    with_pack<T>(pack_size<T>(width, args.x, args.dy, args.dx), [&](auto n) {
      launch(backward_rows<T, n>, {blocks_for(rows, kWarps), kThreads}, stream, args.x.as<T>(), args.dy.as<T>(),
             args.dx.as<T>(), rows, static_cast<int>(width), static_cast<float>(args.eps),
             args.mode == GradientMode::accumulate);
    });
  });
}

}  // namespace dino::cuda
