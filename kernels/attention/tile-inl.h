// Small matrix products with register blocking, and the packing they need. Included once per instruction set, after
// hwy/foreach_target.h and hwy/highway.h, as kernels/common/simd-inl.h.
#if defined(DINO_KERNELS_ATTENTION_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DINO_KERNELS_ATTENTION_TILE_INL_H_
#undef DINO_KERNELS_ATTENTION_TILE_INL_H_
#else
#define DINO_KERNELS_ATTENTION_TILE_INL_H_
#endif

#include "kernels/common/gradient_mode.h"
#include "kernels/common/simd-inl.h"

#include <algorithm>
#include <cstddef>
#include <type_traits>

HWY_BEFORE_NAMESPACE();
namespace dino::tiles::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using simd::HWY_NAMESPACE::FloatTag;
using simd::HWY_NAMESPACE::FloatVector;
using simd::HWY_NAMESPACE::load;
using simd::HWY_NAMESPACE::load_tail;
using simd::HWY_NAMESPACE::store;
using simd::HWY_NAMESPACE::store_tail;

/// `n` rounded up to whole vectors.
HWY_INLINE std::size_t padded(std::size_t n) {
  const std::size_t lanes = hn::Lanes(FloatTag());
  return (n + lanes - 1) / lanes * lanes;
}

/// Where a product's rows go: base[row * stride + column], for columns below `width`.
template <typename T>
struct Destination {
  T* base;
  std::size_t stride;
  std::size_t width;
  GradientMode mode = GradientMode::overwrite;
  const float* row_factor = nullptr;  // multiplies each row, when given
  const float* more = nullptr;        // added, when given: more[row * more_stride + column]
  std::size_t more_stride = 0;
};

inline constexpr std::size_t kTileRows = 6;  // times two vectors: twelve sums, two of b and one of a fit 16 registers

/// Puts a finished tile where it goes, when storing is not all there is to do.
template <typename T>
HWY_NOINLINE void put_tile(const Destination<T>& to, const float* tile, std::size_t tile_stride, std::size_t rows,
                           std::size_t columns, std::size_t row, std::size_t column) {
  const FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  const bool accumulate = to.mode == GradientMode::accumulate;
  for (std::size_t r = 0; r < rows; ++r) {
    T* p = to.base + (row + r) * to.stride + column;
    for (std::size_t c = 0; c < columns && column + c < to.width; c += lanes) {
      FloatVector value = hn::Load(d, tile + r * tile_stride + c);
      if (to.more != nullptr) value = hn::Add(value, load(d, to.more + (row + r) * to.more_stride + column + c));
      const std::size_t rest = to.width - column - c;
      if (rest >= lanes) {
        if (accumulate) value = hn::Add(value, load(d, p + c));
        store(d, value, p + c);
      } else {
        if (accumulate) value = hn::Add(value, load_tail(d, p + c, rest));
        store_tail(d, value, p + c, rest);
      }
    }
  }
}

/// c = kRows rows and kVectors vectors of columns of a · b, each row times its factor when there are factors. Element
/// (r, k) of a is a[r * a_stride + k], or a[k * a_stride + r] when it is kTransposed.
template <std::size_t kRows, std::size_t kVectors, bool kTransposed>
HWY_NOINLINE void tile(const float* HWY_RESTRICT a, std::size_t a_stride, const float* HWY_RESTRICT b,
                       std::size_t b_stride, std::size_t depth, const float* factors, float* HWY_RESTRICT c,
                       std::size_t c_stride) {
  const FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  FloatVector sums[kRows][kVectors];
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(d);
  }
  for (std::size_t k = 0; k < depth; ++k) {
    FloatVector b_row[kVectors];
#pragma GCC unroll 2
    for (std::size_t v = 0; v < kVectors; ++v) b_row[v] = hn::LoadU(d, b + v * lanes);
#pragma GCC unroll 6
    for (std::size_t r = 0; r < kRows; ++r) {
      const FloatVector factor = hn::Set(d, kTransposed ? a[r] : a[r * a_stride]);
#pragma GCC unroll 2
      for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(factor, b_row[v], sums[r][v]);
    }
    a += kTransposed ? a_stride : 1;
    b += b_stride;
  }
  if (factors != nullptr) {
#pragma GCC unroll 6
    for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::Mul(sums[r][v], hn::Set(d, factors[r]));
    }
  }
#pragma GCC unroll 6
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (std::size_t v = 0; v < kVectors; ++v) hn::StoreU(sums[r][v], d, c + r * c_stride + v * lanes);
  }
}

template <std::size_t kVectors, bool kTransposed>
HWY_INLINE void tile_of_rows(std::size_t rows, const float* a, std::size_t a_stride, const float* b,
                             std::size_t b_stride, std::size_t depth, const float* factors, float* c,
                             std::size_t c_stride) {
  switch (rows) {
    case 6: return tile<6, kVectors, kTransposed>(a, a_stride, b, b_stride, depth, factors, c, c_stride);
    case 5: return tile<5, kVectors, kTransposed>(a, a_stride, b, b_stride, depth, factors, c, c_stride);
    case 4: return tile<4, kVectors, kTransposed>(a, a_stride, b, b_stride, depth, factors, c, c_stride);
    case 3: return tile<3, kVectors, kTransposed>(a, a_stride, b, b_stride, depth, factors, c, c_stride);
    case 2: return tile<2, kVectors, kTransposed>(a, a_stride, b, b_stride, depth, factors, c, c_stride);
    default: return tile<1, kVectors, kTransposed>(a, a_stride, b, b_stride, depth, factors, c, c_stride);
  }
}

/// to = a · b with a (rows, depth), or (depth, rows) when kTransposed, and b (depth, columns); columns are whole
/// vectors. A panel of b, two vectors wide, stays in the first cache while all rows of a pass by.
template <bool kTransposed, typename T>
void product(std::size_t rows, std::size_t columns, std::size_t depth, const float* a, std::size_t a_stride,
             const float* b, std::size_t b_stride, const Destination<T>& to) {
  const std::size_t lanes = hn::Lanes(FloatTag());
  const std::size_t row_tiles = (rows + kTileRows - 1) / kTileRows;
  const std::size_t share = rows / row_tiles;  // tiles of almost equal height: none ends up with a single row
  const std::size_t rest = rows % row_tiles;
  constexpr std::size_t kBufferStride = 2 * hn::MaxLanes(FloatTag());
  HWY_ALIGN float buffer[kTileRows * kBufferStride];
  const bool plain = to.mode != GradientMode::accumulate && to.more == nullptr;
  for (std::size_t column = 0; column < columns; column += 2 * lanes) {
    const std::size_t wide = std::min(2 * lanes, columns - column);
    std::size_t row = 0;
    for (std::size_t i = 0; i < row_tiles; ++i) {
      const std::size_t height = share + (i < rest ? 1 : 0);
      const float* a_tile = a + row * (kTransposed ? 1 : a_stride);
      const float* factors = to.row_factor != nullptr ? to.row_factor + row : nullptr;
      float* c = buffer;
      std::size_t c_stride = kBufferStride;
      if constexpr (std::is_same_v<T, float>) {
        if (plain && column + wide <= to.width) {
          c = to.base + row * to.stride + column;
          c_stride = to.stride;
        }
      }
      if (wide > lanes) {
        tile_of_rows<2, kTransposed>(height, a_tile, a_stride, b + column, b_stride, depth, factors, c, c_stride);
      } else {
        tile_of_rows<1, kTransposed>(height, a_tile, a_stride, b + column, b_stride, depth, factors, c, c_stride);
      }
      if (c == buffer) put_tile(to, buffer, kBufferStride, height, wide, row, column);
      row += height;
    }
  }
}

/// Row length of a packed matrix: an odd number of cache lines, so that a column of it uses all sets of a cache.
HWY_INLINE std::size_t packed_stride(std::size_t columns) {
  constexpr std::size_t kLine = 16;
  return ((padded(columns) + kLine - 1) / kLine | 1) * kLine;
}

/// to[row * to_stride + column] = x[row * x_stride + column] in fp32; the last vector is filled up with zeros.
template <typename T>
void pack(const T* x, std::size_t x_stride, std::size_t rows, std::size_t columns, float* to, std::size_t to_stride) {
  const FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  for (std::size_t row = 0; row < rows; ++row) {
    std::size_t column = 0;
    for (; column + lanes <= columns; column += lanes) store(d, load(d, x + column), to + column);
    if (column < columns) store(d, load_tail(d, x + column, columns - column), to + column);
    x += x_stride;
    to += to_stride;
  }
}

#if HWY_TARGET != HWY_SCALAR && !HWY_HAVE_SCALABLE
using QuarterTag = hn::FixedTag<float, 4>;
HWY_INLINE hn::Vec<QuarterTag> load_four(const float* p) { return hn::LoadU(QuarterTag(), p); }
HWY_INLINE hn::Vec<QuarterTag> load_four(const BFloat16* p) {
  const hn::Rebind<std::uint16_t, QuarterTag> d16;
  const hn::RebindToUnsigned<QuarterTag> d32;
  const auto bits = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(p)));
  return hn::BitCast(QuarterTag(), hn::ShiftLeft<16>(bits));
}

/// A vector whose 128-bit blocks are four elements each of rows[0], rows[4], rows[8], …
template <typename T>
HWY_INLINE FloatVector load_blocks(const T* const* rows, std::size_t column) {
  [[maybe_unused]] const FloatTag d;
  constexpr std::size_t kLanes = hn::MaxLanes(FloatTag());
  static_assert(kLanes == 4 || kLanes == 8 || kLanes == 16);
  if constexpr (kLanes == 4) {
    return load_four(rows[0] + column);
  } else if constexpr (kLanes == 8) {
    return hn::Combine(d, load_four(rows[4] + column), load_four(rows[0] + column));
  } else {
    const hn::Half<FloatTag> half;
    return hn::Combine(d, hn::Combine(half, load_four(rows[12] + column), load_four(rows[8] + column)),
                       hn::Combine(half, load_four(rows[4] + column), load_four(rows[0] + column)));
  }
}
#endif

/// to[column * to_stride + row] = x[row * x_stride + column] in fp32. Rows are filled up to whole vectors by repeating
/// the last one.
template <typename T>
void pack_transposed(const T* x, std::size_t x_stride, std::size_t rows, std::size_t columns, float* to,
                     std::size_t to_stride) {
  const FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  for (std::size_t first = 0; first < rows; first += lanes) {
    const T* row[hn::MaxLanes(FloatTag())];
    for (std::size_t i = 0; i < lanes; ++i) row[i] = x + std::min(first + i, rows - 1) * x_stride;
    std::size_t column = 0;
#if HWY_TARGET != HWY_SCALAR && !HWY_HAVE_SCALABLE
    const hn::Repartition<double, FloatTag> pairs;
    for (; column + 4 <= columns; column += 4) {
      // Transposes 4×4 elements in each 128-bit block.
      const auto a = load_blocks(row + 0, column);
      const auto b = load_blocks(row + 1, column);
      const auto c = load_blocks(row + 2, column);
      const auto e = load_blocks(row + 3, column);
      const auto ab_low = hn::BitCast(pairs, hn::InterleaveLower(d, a, b));
      const auto ce_low = hn::BitCast(pairs, hn::InterleaveLower(d, c, e));
      const auto ab_high = hn::BitCast(pairs, hn::InterleaveUpper(d, a, b));
      const auto ce_high = hn::BitCast(pairs, hn::InterleaveUpper(d, c, e));
      float* p = to + column * to_stride + first;
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, ab_low, ce_low)), d, p);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, ab_low, ce_low)), d, p + to_stride);
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, ab_high, ce_high)), d, p + 2 * to_stride);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, ab_high, ce_high)), d, p + 3 * to_stride);
    }
#endif
    for (; column < columns; ++column) {
      for (std::size_t i = 0; i < lanes; ++i) to[column * to_stride + first + i] = static_cast<float>(row[i][column]);
    }
  }
}

}  // namespace dino::tiles::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
