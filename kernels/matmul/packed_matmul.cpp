// A tile of sums in registers, 14 rows times two vectors with AVX-512, runs along K over a tile of a in the first-level
// cache and a panel of b, two vectors wide, from the second-level cache. Both are packed, in fp32, in the order in
// which they are read: b in chunks of K and blocks of columns that stay while all rows of a pass by, a tile by tile.
// Packing b costs about 1/M of the products, packing a 1/N. Bound by FMA: 83 to 90 % of the instruction's rate on the
// shapes of ViT-S/16 with operands from memory (docs/performance.md).
#include "kernels/matmul/packed_matmul.h"

#include "kernels/common/parallel.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul/packed_matmul.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/attention/tile-inl.h"
#include "kernels/common/simd-inl.h"
#include "kernels/gelu/gelu-inl.h"

#ifndef DINO_KERNELS_MATMUL_PACKED_ONCE_
#define DINO_KERNELS_MATMUL_PACKED_ONCE_
namespace dino::cpu {

/// What one thread computes: rows [m_begin, m_end) and columns [n_begin, n_end) of y.
struct Rectangle {
  std::int64_t m_begin, m_end, n_begin, n_end;
};

/// Length of equal parts of `length`, of at most `most` (at least `multiple`), in whole multiples.
inline std::int64_t even_part(std::int64_t length, std::int64_t most, std::int64_t multiple) {
  const std::int64_t parts = (length + most - 1) / most;
  const std::int64_t even = (length + parts - 1) / parts;
  return (even + multiple - 1) / multiple * multiple;
}

/// One thread's memory, in floats; each part begins on a cache line.
struct PackedSizes {
  std::int64_t depth, chunk, columns;  // of a block
  std::size_t a, b, sums;

  std::size_t total() const { return a + b + sums; }
};

}  // namespace dino::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
namespace tl = tiles::HWY_NAMESPACE;
namespace simd = dino::simd::HWY_NAMESPACE;
using simd::FloatTag;
using simd::FloatVector;

/// Rows of a tile of sums, times two vectors: 28 of the 32 registers of AVX-512, 12 of 16 elsewhere.
constexpr std::int64_t kTileRows = hn::MaxLanes(FloatTag()) == 16 ? 14 : 6;

/// Row length of a packed tile: an odd number of cache lines, so that a column of it uses all sets of a cache.
constexpr std::int64_t kDepthStride = PackedBlocks::kMostDepth + 16;

HWY_INLINE std::int64_t lanes() { return static_cast<std::int64_t>(hn::Lanes(FloatTag())); }
HWY_INLINE std::int64_t panel_width() { return 2 * lanes(); }
HWY_INLINE std::int64_t tile_stride() { return (kTileRows + lanes() - 1) / lanes() * lanes(); }

/// How a tile of a is packed: as the array itself is, so that rows are copied in whole vectors.
template <bool kTransposed>
HWY_INLINE std::int64_t a_index(std::int64_t row, std::int64_t k) {
  return kTransposed ? k * tile_stride() + row : row * kDepthStride + k;
}

/// packed[a_index(row, k)] = a[first_row + row, first_k + k]
template <typename T, bool kTransposed>
void pack_a(const T* a, std::int64_t m, std::int64_t k, std::int64_t first_row, std::int64_t rows, std::int64_t first_k,
            std::int64_t depth, float* packed) {
  const FloatTag d;
  if (!kTransposed) {
    for (std::int64_t row = 0; row < rows; ++row) {
      const T* from = a + (first_row + row) * k + first_k;
      float* to = packed + a_index<false>(row, 0);
      for (std::int64_t i = 0; i < depth; i += lanes()) {
        hn::Store(simd::load_up_to(d, from + i, static_cast<std::size_t>(depth - i)), d, to + i);
      }
    }
    return;
  }
  // Whole vectors of the array's rows, also where the tile is narrower.
  const std::int64_t left = m - first_row;
  for (std::int64_t i = 0; i < depth; ++i) {
    const T* from = a + (first_k + i) * m + first_row;
    float* to = packed + a_index<true>(0, i);
    for (std::int64_t row = 0; row < std::min(tile_stride(), left); row += lanes()) {
      hn::Store(simd::load_up_to(d, from + row, static_cast<std::size_t>(left - row)), d, to + row);
    }
  }
}

/// packed[panel][k · panel_width + column] = b[first_k + k, first_column + panel · panel_width + column] for `columns`
/// columns; those that fill up the last panel are zero or repeat the last one.
template <typename T>
void pack_b(const Matmul& args, std::int64_t n, std::int64_t k, std::int64_t first_column, std::int64_t columns,
            std::int64_t first_k, std::int64_t depth, float* packed) {
  const FloatTag d;
  const T* b = args.b.as<T>();
  const std::int64_t width = panel_width();
  if (args.transpose_b) {
    for (std::int64_t column = 0; column < columns; column += width) {
      float* panel = packed + column * depth;
      const std::int64_t present = std::min(width, columns - column);
      if (present <= lanes()) std::fill_n(panel, width * depth, 0.0F);
      tl::pack_transposed(b + (first_column + column) * k + first_k, static_cast<std::size_t>(k),
                          static_cast<std::size_t>(present), static_cast<std::size_t>(depth), panel,
                          static_cast<std::size_t>(width));
    }
    return;
  }
  // Row by row, as they lie in memory.
  for (std::int64_t i = 0; i < depth; ++i) {
    const T* from = b + (first_k + i) * n + first_column;
    for (std::int64_t column = 0; column < columns; column += width) {
      float* to = packed + column * depth + i * width;
      const std::int64_t left = columns - column;
      hn::Store(simd::load_up_to(d, from + column, static_cast<std::size_t>(left)), d, to);
      hn::Store(left > lanes() ? simd::load_up_to(d, from + column + lanes(), static_cast<std::size_t>(left - lanes()))
                               : hn::Zero(d),
                d, to + lanes());
    }
  }
}

/// Memory that will be read next, a line for each step of a product.
struct Ahead {
  const char* next;
  std::int64_t step_bytes;
};

/// sums (kRows, panel_width) of a tile times a panel, written or, with kMore, added.
template <std::int64_t kRows, bool kTransposed, bool kMore>
HWY_NOINLINE void multiply_tile(const float* HWY_RESTRICT a, const float* HWY_RESTRICT panel, std::int64_t depth,
                                float* HWY_RESTRICT sums, std::int64_t stride, Ahead ahead) {
  constexpr std::int64_t kAhead = 16;  // of k: the panel comes from the second-level cache
  const FloatTag d;
  const std::int64_t width = panel_width();
  FloatVector left[kRows], right[kRows];
#pragma GCC unroll 14
  for (std::int64_t r = 0; r < kRows; ++r) {
    left[r] = kMore ? hn::Load(d, sums + r * stride) : hn::Zero(d);
    right[r] = kMore ? hn::Load(d, sums + r * stride + lanes()) : hn::Zero(d);
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    hwy::Prefetch(panel + kAhead * width);
    hwy::Prefetch(panel + kAhead * width + lanes());
    __builtin_prefetch(ahead.next, 0, 2);
    ahead.next += ahead.step_bytes;
    const FloatVector x = hn::Load(d, panel);
    const FloatVector y = hn::Load(d, panel + lanes());
#pragma GCC unroll 14
    for (std::int64_t r = 0; r < kRows; ++r) {
      const FloatVector factor = hn::Set(d, a[a_index<kTransposed>(r, 0)]);
      left[r] = hn::MulAdd(factor, x, left[r]);
      right[r] = hn::MulAdd(factor, y, right[r]);
    }
    a += a_index<kTransposed>(0, 1);
    panel += width;
  }
#pragma GCC unroll 14
  for (std::int64_t r = 0; r < kRows; ++r) {
    hn::Store(left[r], d, sums + r * stride);
    hn::Store(right[r], d, sums + r * stride + lanes());
  }
}

template <std::int64_t kRows, bool kTransposed>
HWY_INLINE void multiply_rows(std::int64_t rows, const float* a, const float* panel, std::int64_t depth, float* sums,
                              std::int64_t stride, bool more, Ahead ahead) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return multiply_rows<kRows - 1, kTransposed>(rows, a, panel, depth, sums, stride, more, ahead);
    }
  }
  more ? multiply_tile<kRows, kTransposed, true>(a, panel, depth, sums, stride, ahead)
       : multiply_tile<kRows, kTransposed, false>(a, panel, depth, sums, stride, ahead);
}

/// y from finished sums, for one row of `columns` elements.
template <typename T>
HWY_INLINE void finish_row(const float* sums, const float* bias, bool accumulate, bool gelu, T* preactivation, T* y,
                           std::int64_t columns) {
  const FloatTag d;
  for (std::int64_t c = 0; c < columns; c += lanes()) {
    const auto left = static_cast<std::size_t>(columns - c);
    FloatVector value = hn::Load(d, sums + c);
    if (bias != nullptr) value = hn::Add(value, simd::load_up_to(d, bias + c, left));
    if (accumulate) value = hn::Add(value, simd::load_up_to(d, y + c, left));
    if (preactivation != nullptr) simd::store_up_to(d, value, preactivation + c, left);
    simd::store_up_to(d, gelu ? simd::gelu(d, value) : value, y + c, left);
  }
}

void finish(const Matmul& args, std::int64_t n, std::int64_t first_row, std::int64_t rows, std::int64_t first_column,
            std::int64_t columns, const float* sums, std::int64_t stride) {
  const float* bias = args.bias ? args.bias.as<float>() + first_column : nullptr;
  const bool accumulate = args.mode == GradientMode::accumulate;
  visit_compute_type(args.y.dtype(), "matmul", [&](auto t) {
    using T = decltype(t);
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t at = (first_row + row) * n + first_column;
      T* preactivation = args.preactivation ? args.preactivation.as<T>() + at : nullptr;
      finish_row(sums + row * stride, bias, accumulate, args.gelu, preactivation, args.y.as<T>() + at, columns);
    }
  });
}

/// What to fetch of a's next tile while a panel is multiplied: in a row-major one a row with each panel, in a
/// transposed one all of it with the first panel. Otherwise `here`, which is in cache.
template <typename T, bool kTransposed>
HWY_INLINE Ahead next_tile(const Matmul& args, std::int64_t next_row, std::int64_t first_k, std::int64_t column,
                           const float* here) {
  const T* a = args.a.as<T>();
  const std::int64_t panel = column / panel_width();
  const std::int64_t row_length = args.a.extent(1);
  if (kTransposed && panel == 0 && next_row + kTileRows <= row_length) {
    // This tile has read the line of the next one's first element already.
    return {reinterpret_cast<const char*>(a + first_k * row_length + next_row + kTileRows - 1),
            row_length * std::int64_t{sizeof(T)}};
  }
  if (!kTransposed && panel < kTileRows && next_row + panel < args.a.extent(0)) {
    return {reinterpret_cast<const char*>(a + (next_row + panel) * row_length + first_k), std::int64_t{sizeof(T)}};
  }
  return {reinterpret_cast<const char*>(here), 0};
}

template <typename T, bool kTransposed>
void multiply(const Matmul& args, const Rectangle& part, const PackedSizes& sizes, float* scratch) {
  const auto [m, n, k] = checked_size(args);
  float* const a = scratch;
  float* const b = a + sizes.a;
  float* const all_sums = b + sizes.b;
  const std::int64_t height = part.m_end - part.m_begin;
  const std::int64_t tiles = (height + kTileRows - 1) / kTileRows;
  for (std::int64_t n0 = part.n_begin; n0 < part.n_end; n0 += sizes.columns) {
    const std::int64_t columns = std::min(sizes.columns, part.n_end - n0);
    const std::int64_t stride = (columns + panel_width() - 1) / panel_width() * panel_width();
    for (std::int64_t k0 = 0; k0 < k; k0 += sizes.chunk) {
      const std::int64_t chunk = std::min(sizes.chunk, k - k0);
      const bool last = k0 + chunk == k;
      pack_b<T>(args, n, k, n0, columns, k0, chunk, b);
      for (std::int64_t tile = 0; tile < tiles; ++tile) {
        // Of almost equal height: none ends up with a single row.
        const std::int64_t row = height * tile / tiles;
        const std::int64_t rows = height * (tile + 1) / tiles - row;
        float* sums = all_sums + (sizes.chunk < k ? row * stride : 0);
        for (std::int64_t k1 = 0; k1 < chunk; k1 += sizes.depth) {
          const std::int64_t depth = std::min(sizes.depth, chunk - k1);
          pack_a<T, kTransposed>(args.a.as<T>(), m, k, part.m_begin + row, rows, k0 + k1, depth, a);
          for (std::int64_t column = 0; column < columns; column += panel_width()) {
            const Ahead ahead = next_tile<T, kTransposed>(args, part.m_begin + row + rows, k0 + k1, column, a);
            multiply_rows<kTileRows, kTransposed>(rows, a, b + column * chunk + k1 * panel_width(), depth,
                                                  sums + column, stride, k0 + k1 > 0, ahead);
          }
        }
        if (last) finish(args, n, part.m_begin + row, rows, n0, columns, sums, stride);
      }
    }
  }
}

/// Cuts y for the threads: of the rectangles' shapes, the one with the least to multiply and to pack for the busiest.
void rectangle_counts(std::int64_t m, std::int64_t n, std::int64_t threads, std::int64_t& rows, std::int64_t& columns) {
  const std::int64_t tiles = (m + kTileRows - 1) / kTileRows;
  const std::int64_t panels = (n + panel_width() - 1) / panel_width();
  std::int64_t least = -1;
  for (std::int64_t r = 1; r <= threads; ++r) {
    const std::int64_t c = threads / r;
    const std::int64_t part_tiles = (tiles + r - 1) / r;
    const std::int64_t part_panels = (panels + c - 1) / c;
    const std::int64_t cost = part_tiles * part_panels + part_panels;
    if (least >= 0 && cost >= least) continue;
    least = cost;
    rows = r;
    columns = c;
  }
}

PackedSizes packed_sizes(std::int64_t k, std::int64_t height, std::int64_t width, const PackedBlocks& blocks) {
  PackedSizes sizes{};
  const std::int64_t panel = panel_width();
  sizes.chunk = even_part(k, blocks.chunk, 1);
  sizes.depth = even_part(sizes.chunk, std::min(blocks.depth, PackedBlocks::kMostDepth), 1);
  const std::int64_t panel_bytes = sizes.chunk * panel * std::int64_t{sizeof(float)};
  sizes.columns = even_part(width, std::max<std::int64_t>(1, blocks.b_bytes / panel_bytes) * panel, panel);
  sizes.a = static_cast<std::size_t>(kTileRows * kDepthStride + PackedBlocks::kMostDepth * tile_stride());
  sizes.b = static_cast<std::size_t>(sizes.chunk * sizes.columns);
  sizes.sums = static_cast<std::size_t>((sizes.chunk < k ? height : kTileRows) * sizes.columns);
  return sizes;
}

void multiply_all(const Matmul& args, Stream& stream, const PackedBlocks& blocks) {
  const auto [m, n, k] = checked_size(args);
  std::int64_t row_parts = 1, column_parts = 1;
  constexpr double kGrain = 1 << 20;  // multiply-adds that are worth a thread
  const double work = static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  const auto threads =
      static_cast<std::int64_t>(std::clamp(work / kGrain, 1.0, static_cast<double>(omp_get_max_threads())));
  rectangle_counts(m, n, threads, row_parts, column_parts);
  const std::int64_t height = even_part(m, (m + row_parts - 1) / row_parts, kTileRows);
  const std::int64_t width = even_part(n, (n + column_parts - 1) / column_parts, panel_width());
  const PackedSizes sizes = packed_sizes(k, height, width, blocks);
  const std::int64_t parts = row_parts * column_parts;
  auto* scratch = static_cast<float*>(stream.scratch(sizes.total() * static_cast<std::size_t>(parts) * sizeof(float)));
  visit_compute_type(args.a.dtype(), "matmul", [&, m = m, n = n](auto t) {
    parallel_for(parts, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t row = i % row_parts * height;
        const std::int64_t column = i / row_parts * width;
        const Rectangle part{row, std::min(m, row + height), column, std::min(n, column + width)};
        if (part.m_begin >= part.m_end || part.n_begin >= part.n_end) continue;
        float* const own = scratch + sizes.total() * static_cast<std::size_t>(i);
        args.transpose_a ? multiply<decltype(t), true>(args, part, sizes, own)
                         : multiply<decltype(t), false>(args, part, sizes, own);
      }
    });
  });
}

}  // namespace
}  // namespace dino::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu {

HWY_EXPORT(multiply_all);

std::int64_t packed_b_bytes() {
  static const std::int64_t bytes = [] {
    constexpr long kLeast = 256L << 10, kMost = 2L << 20;
    return std::clamp(sysconf(_SC_LEVEL2_CACHE_SIZE), kLeast, kMost) / 5 * 3;
  }();
  return bytes;
}

void matmul_packed(const Matmul& args, Stream& stream, const PackedBlocks& blocks) {
  checked_size(args);
  if (args.mode == GradientMode::ignore) return;
  HWY_DYNAMIC_DISPATCH(multiply_all)(args, stream, blocks);
}

}  // namespace dino::cpu
#endif
