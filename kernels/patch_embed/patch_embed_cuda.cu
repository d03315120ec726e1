#include "kernels/common/cuda/launch.h"
#include "kernels/patch_embed/patch_embed.h"

namespace dino::cuda {
namespace {

constexpr int kThreads = 256;

struct Pixels {
  std::int64_t count;  // B·H·W
  int height, width, patch;
  float scale[3], offset[3];  // of 8-bit pixels
};

/// A pixel per thread, in the order of the picture: reads are contiguous, and writes over the width of a patch.
template <typename T, bool kBytes>
__global__ void __launch_bounds__(kThreads) cut_patches(const void* images, T* patches, const Pixels args) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= args.count) return;
  const int x = static_cast<int>(i % args.width);
  const int y = static_cast<int>(i / args.width % args.height);
  const std::int64_t image = i / args.width / args.height;
  const int p = args.patch;
  const std::int64_t row = (image * (args.height / p) + y / p) * (args.width / p) + x / p;
  T* to = patches + row * 3 * p * p + y % p * p + x % p;
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    float value;
    if constexpr (kBytes) {
      value =
          fmaf(static_cast<float>(static_cast<const std::uint8_t*>(images)[i * 3 + c]), args.scale[c], args.offset[c]);
    } else {
      value = static_cast<const float*>(images)[((image * 3 + c) * args.height + y) * args.width + x];
    }
    to[c * p * p] = from_float<T>(value);
  }
}

/// A pack of a token per thread.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads) assemble(const T* embedded, const float* cls, const float* positions,
                                                     T* tokens, std::int64_t packs, int length, int width) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= packs) return;
  const int packs_per_row = width / N;
  const int column = static_cast<int>(i % packs_per_row) * N;
  const std::int64_t token = i / packs_per_row;
  const std::int64_t sequence = token / length;
  const int place = static_cast<int>(token % length);
  float values[N];
  float position[N];
  if (place == 0) {
    load(cls + column, values);
  } else {
    load(embedded + (sequence * (length - 1) + place - 1) * width + column, values);
  }
  load(positions + std::int64_t{place} * width + column, position);
#pragma unroll
  for (int k = 0; k < N; ++k) values[k] += position[k];
  store(values, tokens + token * width + column);
}

template <typename T>
struct Backward {
  const T* d_tokens;
  T* d_embedded;               // null: ignored
  float *d_cls, *d_positions;  // null: ignored
  bool embedded_adds, cls_adds, positions_adds;
  std::int64_t count;
  int length, width;
};

template <typename T, int N>
__device__ __forceinline__ void put(const float (&values)[N], T* to, bool adds) {
  float result[N] = {};
  if (adds) load(to, result);
#pragma unroll
  for (int k = 0; k < N; ++k) result[k] += values[k];
  store(result, to);
}

/// A pack of a position per thread, over all sequences in their order.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads) disassemble(const Backward<T> args) {
  const int packs_per_row = args.width / N;
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= std::int64_t{packs_per_row} * args.length) return;
  const int column = static_cast<int>(i % packs_per_row) * N;
  const int place = static_cast<int>(i / packs_per_row);
  float sums[N] = {};
  for (std::int64_t s = 0; s < args.count; ++s) {
    float values[N];
    load(args.d_tokens + (s * args.length + place) * args.width + column, values);
    if (place > 0 && args.d_embedded != nullptr) {
      put(values, args.d_embedded + (s * (args.length - 1) + place - 1) * args.width + column, args.embedded_adds);
    }
#pragma unroll
    for (int k = 0; k < N; ++k) sums[k] += values[k];
  }
  if (args.d_positions != nullptr) {
    put(sums, args.d_positions + std::int64_t{place} * args.width + column, args.positions_adds);
  }
  if (place == 0 && args.d_cls != nullptr) put(sums, args.d_cls + column, args.cls_adds);
}

}  // namespace

void patchify(const Patchify& args, Stream& stream) {
  check_patch_embed(args);
  const bool bytes = args.images.dtype() == DType::uint8;
  Pixels pixels{.count = args.images.size() / 3,
                .height = static_cast<int>(args.images.extent(bytes ? 1 : 2)),
                .width = static_cast<int>(args.images.extent(bytes ? 2 : 3)),
                .patch = static_cast<int>(args.patch_px),
                .scale = {},
                .offset = {}};
  for (std::size_t c = 0; c < 3; ++c) {
    pixels.scale[c] = static_cast<float>(1.0 / (255.0 * static_cast<double>(args.std[c])));
    pixels.offset[c] = static_cast<float>(-static_cast<double>(args.mean[c]) / static_cast<double>(args.std[c]));
  }
  visit_compute_type(args.patches.dtype(), "patchify", [&](auto zero) {
    using T = decltype(zero);
    launch(bytes ? cut_patches<T, true> : cut_patches<T, false>, {blocks_for(pixels.count, kThreads), kThreads}, stream,
           args.images.data(), args.patches.as<T>(), pixels);
  });
}

void assemble_tokens(const AssembleTokens& args, Stream& stream) {
  check_patch_embed(args);
  const std::int64_t width = args.positions.extent(1);
  visit_compute_type(args.tokens.dtype(), "assemble_tokens", [&](auto zero) {
    using T = decltype(zero);
    with_pack<T>(pack_size<T>(width, args.embedded, args.cls, args.positions, args.tokens), [&](auto n) {
      const std::int64_t packs = args.tokens.size() / n;
      launch(assemble<T, n>, {blocks_for(packs, kThreads), kThreads}, stream, args.embedded.as<T>(),
             args.cls.as<float>(), args.positions.as<float>(), args.tokens.as<T>(), packs,
             static_cast<int>(args.positions.extent(0)), static_cast<int>(width));
    });
  });
}

void assemble_tokens_backward(const AssembleTokensBackward& args, Stream& stream) {
  check_patch_embed(args);
  const std::int64_t length = args.d_tokens.extent(0) / args.count;
  const std::int64_t width = args.d_tokens.extent(1);
  visit_compute_type(args.d_tokens.dtype(), "assemble_tokens_backward", [&](auto zero) {
    using T = decltype(zero);
    const Backward<T> backward{.d_tokens = args.d_tokens.as<T>(),
                               .d_embedded = wanted<T>(args.d_embedded, args.embedded_mode),
                               .d_cls = wanted<float>(args.d_cls, args.cls_mode),
                               .d_positions = wanted<float>(args.d_positions, args.positions_mode),
                               .embedded_adds = args.embedded_mode == GradientMode::accumulate,
                               .cls_adds = args.cls_mode == GradientMode::accumulate,
                               .positions_adds = args.positions_mode == GradientMode::accumulate,
                               .count = args.count,
                               .length = static_cast<int>(length),
                               .width = static_cast<int>(width)};
    const int pack = pack_size<T>(width, args.d_tokens, args.d_embedded, args.d_cls, args.d_positions);
    with_pack<T>(pack, [&](auto n) {
      launch(disassemble<T, n>, {blocks_for(length * width / n, kThreads), kThreads}, stream, backward);
    });
  });
}

}  // namespace dino::cuda
