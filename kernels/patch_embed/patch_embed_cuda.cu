#include "kernels/column_sum/column_sum_cuda.h"
#include "kernels/patch_embed/patch_embed.h"

namespace dino::cuda {
namespace {

constexpr int kThreads = 256;

struct Pixels {
  int height, width, patch;
  int blocks;                 // of a picture
  float scale[3], offset[3];  // of 8-bit pixels
};

/// N neighbouring pixels of one patch per thread, in the order of the picture: reads are contiguous, and writes over
/// the width of a patch.
template <typename T, int N, bool kBytes>
__global__ void __launch_bounds__(kThreads) cut_patches(const void* images, T* patches, const Pixels args) {
  const int image = static_cast<int>(blockIdx.x) / args.blocks;
  const int i = (static_cast<int>(blockIdx.x) % args.blocks * kThreads + static_cast<int>(threadIdx.x)) * N;
  const int count = args.height * args.width;
  if (i >= count) return;
  const int x = i % args.width;
  const int y = i / args.width;
  const int p = args.patch;
  const std::int64_t row = (std::int64_t{image} * (args.height / p) + y / p) * (args.width / p) + x / p;
  T* to = patches + row * 3 * p * p + y % p * p + x % p;
  Pack<std::uint8_t, N> bytes[3];  // of kBytes: the pixels' channels in turn
  if constexpr (kBytes) {
    const auto* from = static_cast<const std::uint8_t*>(images) + (std::int64_t{image} * count + i) * 3;
#pragma unroll
    for (int k = 0; k < 3; ++k) bytes[k] = *reinterpret_cast<const Pack<std::uint8_t, N>*>(from + k * N);
  }
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    float values[N];
    if constexpr (kBytes) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const int at = 3 * n + c;
        values[n] = fmaf(static_cast<float>(bytes[at / N].values[at % N]), args.scale[c], args.offset[c]);
      }
    } else {
      load(static_cast<const float*>(images) + (std::int64_t{image} * 3 + c) * count + i, values);
    }
    store(values, to + c * p * p);
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

/// The gradient of tokens, (S, N·C): yields its elements for the sums over sequences, which are the gradients of the
/// positions, and hands on those of patches.
template <typename T, int N>
struct Disassemble {
  const T* d_tokens;
  T* d_embedded;  // null: ignored
  bool adds;
  int width;

  __device__ __forceinline__ void operator()(const ColumnPlace& place, float (&values)[N]) const {
    load(d_tokens + place.at, values);
    if (d_embedded == nullptr || place.column < width) return;  // CLS comes first
    T* to = d_embedded + (place.at - (place.row + 1) * width);
    float result[N] = {};
    if (adds) load(to, result);
#pragma unroll
    for (int k = 0; k < N; ++k) result[k] += values[k];
    store(result, to);
  }
};

}  // namespace

void patchify(const Patchify& args, Stream& stream) {
  check_patch_embed(args);
  const bool bytes = args.images.dtype() == DType::uint8;
  Pixels pixels{.height = static_cast<int>(args.images.extent(bytes ? 1 : 2)),
                .width = static_cast<int>(args.images.extent(bytes ? 2 : 3)),
                .patch = static_cast<int>(args.patch_px),
                .blocks = 0,
                .scale = {},
                .offset = {}};
  for (std::size_t c = 0; c < 3; ++c) {
    pixels.scale[c] = static_cast<float>(1.0 / (255.0 * static_cast<double>(args.std[c])));
    pixels.offset[c] = static_cast<float>(-static_cast<double>(args.mean[c]) / static_cast<double>(args.std[c]));
  }
  // Rows of pictures and patches are multiples of this, and so is where they begin.
  constexpr int kWide = 8;
  const auto aligned = [](const auto& array) { return reinterpret_cast<std::uintptr_t>(array.data()) % 16 == 0; };
  const bool wide = args.patch_px % kWide == 0 && aligned(args.images) && aligned(args.patches);
  visit_compute_type(args.patches.dtype(), "patchify", [&](auto zero) {
    using T = decltype(zero);
    const auto cut = [&](auto n) {
      pixels.blocks =
          static_cast<int>(blocks_for(std::int64_t{pixels.height} * pixels.width, std::int64_t{n} * kThreads));
      launch(bytes ? cut_patches<T, n, true> : cut_patches<T, n, false>,
             {static_cast<unsigned>(args.images.extent(0)) * static_cast<unsigned>(pixels.blocks), kThreads}, stream,
             args.images.data(), args.patches.as<T>(), pixels);
    };
    wide ? cut(std::integral_constant<int, kWide>{}) : cut(std::integral_constant<int, 1>{});
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
  const std::int64_t width = args.d_tokens.extent(1);
  const ColumnBlocks blocks(args.count, args.d_tokens.size() / args.count);
  auto* partial = static_cast<float*>(stream.scratch(blocks.partial_bytes()));
  visit_compute_type(args.d_tokens.dtype(), "assemble_tokens_backward", [&](auto zero) {
    using T = decltype(zero);
    with_pack<T>(pack_size<T>(width, args.d_tokens, args.d_embedded), [&](auto n) {
      const Disassemble<T, n> body{.d_tokens = args.d_tokens.as<T>(),
                                   .d_embedded = wanted<T>(args.d_embedded, args.embedded_mode),
                                   .adds = args.embedded_mode == GradientMode::accumulate,
                                   .width = static_cast<int>(width)};
      sum_columns<n>(body, blocks, partial, args.d_positions, args.positions_mode, stream);
    });
  });
  // A sequence begins with its CLS row.
  launch_add_partials(partial, blocks.count, blocks.columns, width, column_target(args.d_cls, args.cls_mode), {},
                      stream);
}

}  // namespace dino::cuda
