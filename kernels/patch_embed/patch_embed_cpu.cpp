#include "kernels/common/parallel.h"
#include "kernels/patch_embed/patch_embed.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/patch_embed/patch_embed_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace simd = dino::simd::HWY_NAMESPACE;

// Pixels that are converted at a time, on the stack, before they are dealt out to their patches.
constexpr std::size_t kChunk = 512;

// n <= kChunk RGB pixels → three rows of normalised values, kChunk apart.
template <typename T>
HWY_ATTR void convert_pixels(const std::uint8_t* pixels, std::size_t n, const float* scale, const float* shift,
                             T* planes) {
  constexpr std::size_t kStep = 16;
  const simd::FloatTag d;
  const hn::Rebind<std::uint8_t, simd::FloatTag> d8;
  const hn::RebindToSigned<simd::FloatTag> d32;
  HWY_ALIGN std::uint8_t bytes[3][kChunk + kStep];
  std::size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::FixedTag<std::uint8_t, kStep> d_bytes;
  for (; i + kStep <= n; i += kStep) {
    hn::Vec<decltype(d_bytes)> r, g, b;
    hn::LoadInterleaved3(d_bytes, pixels + 3 * i, r, g, b);
    hn::Store(r, d_bytes, bytes[0] + i);
    hn::Store(g, d_bytes, bytes[1] + i);
    hn::Store(b, d_bytes, bytes[2] + i);
  }
#endif
  for (; i < n; ++i) {
    for (std::size_t c = 0; c < 3; ++c) bytes[c][i] = pixels[3 * i + c];
  }
  for (std::size_t c = 0; c < 3; ++c) {
    const auto a = hn::Set(d, scale[c]);
    const auto b = hn::Set(d, shift[c]);
    // Whole vectors only: the values behind n are never used, and both rows have room for them.
    for (i = 0; i < n; i += hn::Lanes(d)) {
      const auto value = hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d8, bytes[c] + i)));
      simd::store(d, hn::MulAdd(value, a, b), planes + c * kChunk + i);
    }
  }
}

template <typename T>
HWY_ATTR void convert_values(const float* x, std::size_t n, T* y) {
  const simd::FloatTag d;
  for (std::size_t i = 0; i < n; i += hn::Lanes(d))
    simd::store_up_to(d, simd::load_up_to(d, x + i, n - i), y + i, n - i);
}

// Deals a line of `columns` patches out: P values to each, `stride` apart. Fixed sizes become a few moves.
template <typename T>
void deal(const T* line, std::int64_t columns, std::int64_t p, std::int64_t stride, T* patches) {
  for (std::int64_t x = 0; x < columns; ++x) {
    const T* from = line + x * p;
    T* to = patches + x * stride;
    if (p == 16) {
      std::memcpy(to, from, 16 * sizeof(T));
    } else if (p == 8) {
      std::memcpy(to, from, 8 * sizeof(T));
    } else {
      std::memcpy(to, from, static_cast<std::size_t>(p) * sizeof(T));
    }
  }
}

// Rows of patches [begin, end) of all images.
template <typename T>
HWY_ATTR void patchify_pixels(const Patchify& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t height = args.images.extent(1), width = args.images.extent(2), p = args.patch_px;
  const std::int64_t chunk = static_cast<std::int64_t>(kChunk) / p;  // patches at a time
  float scale[3], shift[3];
  for (std::size_t c = 0; c < 3; ++c) {
    scale[c] = static_cast<float>(1.0 / (255.0 * static_cast<double>(args.std[c])));
    shift[c] = static_cast<float>(-static_cast<double>(args.mean[c]) / static_cast<double>(args.std[c]));
  }
  HWY_ALIGN T planes[3 * kChunk];
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t n = row / (height / p), top = row % (height / p) * p;
    T* patches = args.patches.as<T>() + row * (width / p) * 3 * p * p;
    for (std::int64_t y = 0; y < p; ++y) {
      const std::uint8_t* line = args.images.as<std::uint8_t>() + (n * height + top + y) * width * 3;
      for (std::int64_t x = 0; x < width / p; x += chunk) {
        const std::int64_t columns = std::min(chunk, width / p - x);
        convert_pixels(line + x * p * 3, static_cast<std::size_t>(columns * p), scale, shift, planes);
        for (std::int64_t c = 0; c < 3; ++c) {
          deal(planes + c * static_cast<std::int64_t>(kChunk), columns, p, 3 * p * p,
               patches + ((x * 3 + c) * p + y) * p);
        }
      }
    }
  }
}

template <typename T>
HWY_ATTR void patchify_values(const Patchify& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t height = args.images.extent(2), width = args.images.extent(3), p = args.patch_px;
  const std::int64_t chunk = static_cast<std::int64_t>(kChunk) / p;
  HWY_ALIGN T values[kChunk];
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t n = row / (height / p), top = row % (height / p) * p;
    T* patches = args.patches.as<T>() + row * (width / p) * 3 * p * p;
    for (std::int64_t c = 0; c < 3; ++c) {
      for (std::int64_t y = 0; y < p; ++y) {
        const float* line = args.images.as<float>() + ((n * 3 + c) * height + top + y) * width;
        T* to = patches + (c * p + y) * p;
        if constexpr (std::is_same_v<T, float>) {
          deal(line, width / p, p, 3 * p * p, to);
        } else {
          for (std::int64_t x = 0; x < width / p; x += chunk) {
            const std::int64_t columns = std::min(chunk, width / p - x);
            convert_values(line + x * p, static_cast<std::size_t>(columns * p), values);
            deal(values, columns, p, 3 * p * p, to + x * 3 * p * p);
          }
        }
      }
    }
  }
}

void patchify_all(const Patchify& args) {
  const bool pixels = args.images.dtype() == DType::uint8;
  const std::int64_t rows = args.images.extent(0) * (args.images.extent(pixels ? 1 : 2) / args.patch_px);
  visit_compute_type(args.patches.dtype(), "patchify", [&](auto type) {
    using T = decltype(type);
    parallel_for(rows, 2, [&](std::int64_t begin, std::int64_t end) {
      pixels ? patchify_pixels<T>(args, begin, end) : patchify_values<T>(args, begin, end);
    });
  });
}

template <typename T>
HWY_ATTR void add_row(const T* x, const float* position, std::size_t n, auto* y) {
  const simd::FloatTag d;
  for (std::size_t i = 0; i < n; i += hn::Lanes(d)) {
    const auto sum = hn::Add(simd::load_up_to(d, x + i, n - i), simd::load_up_to(d, position + i, n - i));
    simd::store_up_to(d, sum, y + i, n - i);
  }
}

template <typename T>
void assemble_rows(const AssembleTokens& args, std::int64_t begin, std::int64_t end) {
  const std::int64_t length = args.positions.extent(0), width = args.positions.extent(1);
  const auto n = static_cast<std::size_t>(width);
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t s = row / length, t = row % length;
    const float* position = args.positions.as<float>() + t * width;
    T* token = args.tokens.as<T>() + row * width;
    if (t == 0) {
      add_row(args.cls.as<float>(), position, n, token);
    } else {
      add_row(args.embedded.as<T>() + (row - s - 1) * width, position, n, token);
    }
  }
}

void assemble_all(const AssembleTokens& args) {
  visit_compute_type(args.tokens.dtype(), "assemble_tokens", [&](auto type) {
    parallel_for(args.tokens.extent(0), 32,
                 [&](std::int64_t begin, std::int64_t end) { assemble_rows<decltype(type)>(args, begin, end); });
  });
}

// sum += d, and d goes to `out` unless that is null.
template <typename T>
HWY_ATTR void accumulate_row(const T* d_token, std::size_t n, float* sum, T* out, GradientMode mode) {
  const simd::FloatTag d;
  for (std::size_t i = 0; i < n; i += hn::Lanes(d)) {
    const auto v = simd::load_up_to(d, d_token + i, n - i);
    hn::Store(hn::Add(hn::Load(d, sum + i), v), d, sum + i);
    if (out != nullptr) simd::store_gradient(d, v, out + i, n - i, mode);
  }
}

HWY_ATTR void put_row(const float* sum, std::size_t n, float* out, GradientMode mode) {
  const simd::FloatTag d;
  if (mode == GradientMode::ignore) return;
  for (std::size_t i = 0; i < n; i += hn::Lanes(d)) simd::store_gradient(d, hn::Load(d, sum + i), out + i, n - i, mode);
}

// Positions [begin, end) of all sequences; the sums of a stretch of columns stay on the stack.
template <typename T>
HWY_ATTR void assemble_backward_positions(const AssembleTokensBackward& args, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kColumns = 1024;
  const std::int64_t length = args.d_tokens.extent(0) / args.count, width = args.d_tokens.extent(1);
  HWY_ALIGN float sum[kColumns];
  for (std::int64_t t = begin; t < end; ++t) {
    for (std::int64_t column = 0; column < width; column += kColumns) {
      const std::int64_t columns = std::min(kColumns, width - column);
      const auto n = static_cast<std::size_t>(columns);
      std::fill_n(sum, kColumns, 0.0F);
      for (std::int64_t s = 0; s < args.count; ++s) {
        const bool wanted = t > 0 && args.embedded_mode != GradientMode::ignore;
        T* out = wanted ? args.d_embedded.as<T>() + (s * (length - 1) + t - 1) * width + column : nullptr;
        accumulate_row(args.d_tokens.as<T>() + (s * length + t) * width + column, n, sum, out, args.embedded_mode);
      }
      put_row(sum, n, args.d_positions.as<float>() + t * width + column, args.positions_mode);
      if (t == 0) put_row(sum, n, args.d_cls.as<float>() + column, args.cls_mode);
    }
  }
}

void assemble_backward_all(const AssembleTokensBackward& args) {
  visit_compute_type(args.d_tokens.dtype(), "assemble_tokens_backward", [&](auto type) {
    parallel_for(args.d_tokens.extent(0) / args.count, 1, [&](std::int64_t begin, std::int64_t end) {
      assemble_backward_positions<decltype(type)>(args, begin, end);
    });
  });
}

}  // namespace dino::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu {

HWY_EXPORT(patchify_all);
HWY_EXPORT(assemble_all);
HWY_EXPORT(assemble_backward_all);

void patchify(const Patchify& args, Stream&) {
  check_patch_embed(args);
  HWY_DYNAMIC_DISPATCH(patchify_all)(args);
}

void assemble_tokens(const AssembleTokens& args, Stream&) {
  check_patch_embed(args);
  HWY_DYNAMIC_DISPATCH(assemble_all)(args);
}

void assemble_tokens_backward(const AssembleTokensBackward& args, Stream&) {
  check_patch_embed(args);
  HWY_DYNAMIC_DISPATCH(assemble_backward_all)(args);
}

}  // namespace dino::cpu
#endif
