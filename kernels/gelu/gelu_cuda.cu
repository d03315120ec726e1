#include "kernels/column_sum/column_sum_cuda.h"
#include "kernels/gelu/gelu.h"

namespace dino::cuda {
namespace {

constexpr int kThreads = 256;

/// A pack per thread. Traffic: as the contract says; about 30 flops an element, bound by memory.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads) forward_packs(const T* x, T* y, std::int64_t packs) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= packs) return;
  float values[N];
  load(x + i * N, values);
#pragma unroll
  for (int k = 0; k < N; ++k) values[k] *= normcdff(values[k]);
  store(values, y + i * N);
}

/// dx of N elements from `at`: written as `kMode` says, and yielded unrounded for the gradient of the bias.
template <typename T, int N, GradientMode kMode>
struct Gradient {
  const T *x, *dy;
  T* dx;

  __device__ __forceinline__ void operator()(std::int64_t at, float (&values)[N]) const {
    constexpr float kInverseRootTwoPi = 0.3989422804F;
    float dy_values[N];
    load(x + at, values);
    load(dy + at, dy_values);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float v = values[k];
      values[k] = dy_values[k] * (normcdff(v) + v * (kInverseRootTwoPi * expf(-0.5F * v * v)));
    }
    if constexpr (kMode == GradientMode::ignore) return;
    float result[N] = {};
    if constexpr (kMode == GradientMode::accumulate) load(dx + at, result);
#pragma unroll
    for (int k = 0; k < N; ++k) result[k] += values[k];
    store(result, dx + at);
  }
};

template <int N, typename Body>
__global__ void __launch_bounds__(kThreads) backward_packs(const Body body, std::int64_t packs) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= packs) return;
  float values[N];
  body(i * N, values);
}

template <typename T, int N, GradientMode kMode>
void backward(const GeluBackward& args, Stream& stream) {
  const Gradient<T, N, kMode> body{args.x.as<T>(), args.dy.as<T>(), args.dx.as<T>()};
  if (args.dbias_mode == GradientMode::ignore) {
    const std::int64_t packs = args.x.size() / N;
    launch(backward_packs<N, Gradient<T, N, kMode>>, {blocks_for(packs, kThreads), kThreads}, stream, body, packs);
    return;
  }
  const std::int64_t columns = args.x.extent(-1);
  const ColumnBlocks blocks(args.x.size() / columns, columns);
  auto* partial = static_cast<float*>(stream.scratch(blocks.partial_bytes()));
  sum_columns<N>(body, blocks, partial, args.dbias, args.dbias_mode, stream);
}

}  // namespace

void gelu_forward(const GeluForward& args, Stream& stream) {
  check_gelu(args);
  visit_compute_type(args.x.dtype(), "gelu", [&](auto zero) {
    using T = decltype(zero);
    with_pack<T>(pack_size<T>(args.x.size(), args.x, args.y), [&](auto n) {
      const std::int64_t packs = args.x.size() / n;
      launch(forward_packs<T, n>, {blocks_for(packs, kThreads), kThreads}, stream, args.x.as<T>(), args.y.as<T>(),
             packs);
    });
  });
}

void gelu_backward(const GeluBackward& args, Stream& stream) {
  check_gelu(args);
  if (args.mode == GradientMode::ignore && args.dbias_mode == GradientMode::ignore) return;
  const std::int64_t columns = args.x.shape().rank() >= 1 ? args.x.extent(-1) : 1;
  visit_compute_type(args.x.dtype(), "gelu", [&](auto zero) {
    using T = decltype(zero);
    with_pack<T>(pack_size<T>(columns, args.x, args.dy, args.dx), [&](auto n) {
      switch (args.mode) {
        case GradientMode::ignore: return backward<T, n, GradientMode::ignore>(args, stream);
        case GradientMode::overwrite: return backward<T, n, GradientMode::overwrite>(args, stream);
        case GradientMode::accumulate: return backward<T, n, GradientMode::accumulate>(args, stream);
      }
    });
  });
}

}  // namespace dino::cuda
