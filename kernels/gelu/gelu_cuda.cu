#include "kernels/column_sum/column_sum_cuda.h"
#include "kernels/gelu/gelu.h"

namespace dino::cuda {
namespace {

constexpr int kThreads = 256;

/// The normal distribution: its density times √(2π), and its distribution function.
struct Normal {
  float gaussian;  // exp(−x²/2)
  float cdf;       // Φ(x)
};

/// Both from one exponential, with the polynomial of gelu-inl.h. The library's normcdff takes three times as many
/// instructions, which then take longer than the memory.
__device__ __forceinline__ Normal normal_distribution(float x) {
  const float gaussian = exp2_approx(x * x * -0.721347520444F);
  const float u = reciprocal_approx(fmaf(fabsf(x), 0.35F, 1.0F));
  float g = -0.0291459433986F;
  g = fmaf(g, u, 0.143971752792F);
  g = fmaf(g, u, -0.255714349679F);
  g = fmaf(g, u, 0.159174248652F);
  g = fmaf(g, u, -0.0231098821755F);
  g = fmaf(g, u, 0.105508018435F);
  g = fmaf(g, u, 0.119832865294F);
  g = fmaf(g, u, 0.139861869837F);
  g = fmaf(g, u, 0.139621404297F);
  const float tail = g * u * gaussian;
  return {gaussian, x < 0 ? tail : 1.0F - tail};
}

/// A pack per thread. Traffic: as the contract says; about 20 instructions an element, bound by memory.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads) forward_packs(const T* x, T* y, std::int64_t packs) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= packs) return;
  float values[N];
  load(x + i * N, values);
#pragma unroll
  for (int k = 0; k < N; ++k) values[k] *= normal_distribution(values[k]).cdf;
  store(values, y + i * N);
}

/// dx of N elements from `at`: written as `kMode` says, and yielded unrounded for the gradient of the bias.
template <typename T, int N, GradientMode kMode>
struct Gradient {
  const T *x, *dy;
  T* dx;

  __device__ __forceinline__ void operator()(const ColumnPlace& place, float (&values)[N]) const {
    const std::int64_t at = place.at;
    constexpr float kInverseRootTwoPi = 0.3989422804F;
    float dy_values[N];
    load(x + at, values);
    load(dy + at, dy_values);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const Normal normal = normal_distribution(values[k]);
      values[k] = dy_values[k] * fmaf(values[k] * kInverseRootTwoPi, normal.gaussian, normal.cdf);
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
  body({.row = 0, .column = 0, .at = i * N}, values);
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
