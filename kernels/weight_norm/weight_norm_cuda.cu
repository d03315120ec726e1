#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/rows.h"
#include "kernels/weight_norm/weight_norm.h"

namespace dino::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarpSize;

/// A warp per row, which comes from the cache the second time. Traffic: reads v, writes w.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    normalize_rows(const float* v, const float* g, T* w, std::int64_t rows, int width) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
  if (row >= rows) return;  // all lanes of a warp together
  v += row * width;
  w += row * width;
  const float scale = g[row] / sqrtf(row_dot<N>(v, v, width));
  for (int c = first_column<N>(); c < width; c += kWarpSize * N) {
    float values[N];
    load(v + c, values);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] *= scale;
    store(values, w + c);
  }
}

template <typename T>
struct Backward {
  const float *v, *g;
  const T* dw;
  float *dv, *dg;  // null: ignored
  bool dv_adds, dg_adds;
  std::int64_t rows;
  int width;
};

/// A warp per row; v and dw come from the cache the second time.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads, 1) backward_rows(const Backward<T> args) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
  if (row >= args.rows) return;  // all lanes of a warp together
  const float* v = args.v + row * args.width;
  const T* dw = args.dw + row * args.width;
  const float inverse = 1.0F / sqrtf(row_dot<N>(v, v, args.width));
  const float dg = row_dot<N>(v, dw, args.width) * inverse;
  if (args.dg != nullptr && threadIdx.x % kWarpSize == 0) args.dg[row] = args.dg_adds ? args.dg[row] + dg : dg;
  if (args.dv == nullptr) return;
  float* dv = args.dv + row * args.width;
  const float scale = args.g[row] * inverse;
  const float along = scale * dg * inverse;
  for (int c = first_column<N>(); c < args.width; c += kWarpSize * N) {
    float values[N];
    float gradient[N];
    float result[N] = {};
    load(v + c, values);
    load(dw + c, gradient);
    if (args.dv_adds) load(dv + c, result);
#pragma unroll
    for (int i = 0; i < N; ++i) result[i] += scale * gradient[i] - along * values[i];
    store(result, dv + c);
  }
}

}  // namespace

void weight_norm(const WeightNorm& args, Stream& stream) {
  check_weight_norm(args);
  const std::int64_t rows = args.v.extent(0);
  const std::int64_t width = args.v.extent(1);
  visit_compute_type(args.w.dtype(), "weight_norm", [&](auto zero) {
    using T = decltype(zero);
    with_pack<float>(pack_size<float>(width, args.v, args.w), [&](auto n) {
      launch(normalize_rows<T, n>, {blocks_for(rows, kWarps), kThreads}, stream, args.v.as<float>(), args.g.as<float>(),
             args.w.as<T>(), rows, static_cast<int>(width));
    });
  });
}

void weight_norm_backward(const WeightNormBackward& args, Stream& stream) {
  if (args.dv_mode == GradientMode::ignore && args.dg_mode == GradientMode::ignore) return;
  check_weight_norm(args);
  const std::int64_t rows = args.v.extent(0);
  const std::int64_t width = args.v.extent(1);
  visit_compute_type(args.dw.dtype(), "weight_norm_backward", [&](auto zero) {
    using T = decltype(zero);
    const Backward<T> backward{.v = args.v.as<float>(),
                               .g = args.g.as<float>(),
                               .dw = args.dw.as<T>(),
                               .dv = wanted<float>(args.dv, args.dv_mode),
                               .dg = wanted<float>(args.dg, args.dg_mode),
                               .dv_adds = args.dv_mode == GradientMode::accumulate,
                               .dg_adds = args.dg_mode == GradientMode::accumulate,
                               .rows = rows,
                               .width = static_cast<int>(width)};
    with_pack<float>(pack_size<float>(width, args.v, args.dw, args.dv), [&](auto n) {
      launch(backward_rows<T, n>, {blocks_for(rows, kWarps), kThreads}, stream, backward);
    });
  });
}

}  // namespace dino::cuda
