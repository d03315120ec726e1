#include "kernels/augment/augment_cpu.h"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/augment/augment_resize_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::augment::HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR

namespace hn = hwy::HWY_NAMESPACE;

// Pairs of 16-bit factors, at most eight sums at a time: the eight rows of a block, or eight neighbouring pixels.
using PairTag = hn::CappedTag<std::int16_t, 16>;
using SumTag = hn::RepartitionToWide<PairTag>;
using Sums = hn::Vec<SumTag>;
using ByteTag = hn::Rebind<std::uint8_t, PairTag>;
using ByteOfSumTag = hn::Rebind<std::uint8_t, SumTag>;
constexpr std::int64_t kSums = hn::MaxLanes(SumTag());
constexpr std::int64_t kParts = 8 / kSums;  // vectors that make eight sums

/// sum + a[2i]·b[2i] + a[2i+1]·b[2i+1] for each 32-bit lane.
HWY_INLINE Sums add_products(Sums sum, hn::Vec<PairTag> a, hn::Vec<PairTag> b) {
  Sums rest = hn::Zero(SumTag());
  sum = hn::ReorderWidenMulAccumulate(SumTag(), a, b, sum, rest);
  return hn::RearrangeToOddPlusEven(sum, rest);
}

HWY_INLINE hn::Vec<PairTag> broadcast_pair(std::int32_t pair) {
  return hn::BitCast(PairTag(), hn::Set(SumTag(), pair));
}

HWY_INLINE void store_rounded(Sums high, Sums low, std::uint8_t* to) {
  const Sums sum = hn::Add(hn::Add(hn::ShiftLeft<11>(high), low), hn::Set(SumTag(), 1 << 21));
  hn::StoreU(hn::DemoteTo(ByteOfSumTag(), hn::ShiftRight<22>(sum)), ByteOfSumTag(), to);
}

using Tile = hn::FixedTag<std::uint8_t, 16>;
using Tile16 = hn::FixedTag<std::uint16_t, 8>;
using Tile32 = hn::FixedTag<std::uint32_t, 4>;
using Tile64 = hn::FixedTag<std::uint64_t, 2>;

/// Eight rows of 16 pixels of one colour, (8, 16), to (8 pairs, 8 rows, 2); pairs are 48 bytes apart.
HWY_INLINE void transpose_tile(const std::uint8_t* rows, std::uint8_t* to) {
  const Tile16 d;
  const Tile32 d32;
  const Tile64 d64;
  const auto row = [&](int i) HWY_ATTR { return hn::BitCast(d, hn::Load(Tile(), rows + 16 * i)); };
  for (int half = 0; half < 2; ++half) {
    // Rows a, b, … side by side, pair by pair.
    const auto zip = [&](int i) HWY_ATTR {
      return hn::BitCast(
          d32, half == 0 ? hn::InterleaveLower(d, row(i), row(i + 1)) : hn::InterleaveUpper(d, row(i), row(i + 1)));
    };
    const auto ab = zip(0), cd = zip(2), ef = zip(4), gh = zip(6);
    const auto abcd_0 = hn::BitCast(d64, hn::InterleaveLower(d32, ab, cd));
    const auto abcd_1 = hn::BitCast(d64, hn::InterleaveUpper(d32, ab, cd));
    const auto efgh_0 = hn::BitCast(d64, hn::InterleaveLower(d32, ef, gh));
    const auto efgh_1 = hn::BitCast(d64, hn::InterleaveUpper(d32, ef, gh));
    std::uint8_t* out = to + half * 4 * 48;
    hn::StoreU(hn::BitCast(Tile(), hn::InterleaveLower(d64, abcd_0, efgh_0)), Tile(), out);
    hn::StoreU(hn::BitCast(Tile(), hn::InterleaveUpper(d64, abcd_0, efgh_0)), Tile(), out + 48);
    hn::StoreU(hn::BitCast(Tile(), hn::InterleaveLower(d64, abcd_1, efgh_1)), Tile(), out + 96);
    hn::StoreU(hn::BitCast(Tile(), hn::InterleaveUpper(d64, abcd_1, efgh_1)), Tile(), out + 144);
  }
}

/// Eight rows of the picture to (pairs, 3, 8 rows, 2).
HWY_INLINE void gather_block(const std::uint8_t* const* rows, std::int64_t pixels, const std::uint8_t* image_end,
                             std::uint8_t* to) {
  HWY_ALIGN std::uint8_t tiles[3][kBlockRows][16];
  for (std::int64_t x = 0; x < pixels; x += 16) {
    for (int r = 0; r < kBlockRows; ++r) {
      const std::uint8_t* from = rows[r] + 3 * x;
      HWY_ALIGN std::uint8_t tail[48];
      if (from + 48 > image_end) {
        const auto left = static_cast<std::size_t>(std::min<std::int64_t>(48, 3 * (pixels - x)));
        std::memcpy(tail, from, left);
        std::memset(tail + left, 0, 48 - left);
        from = tail;
      }
      hn::Vec<Tile> red, green, blue;
      hn::LoadInterleaved3(Tile(), from, red, green, blue);
      hn::Store(red, Tile(), tiles[0][r]);
      hn::Store(green, Tile(), tiles[1][r]);
      hn::Store(blue, Tile(), tiles[2][r]);
    }
    for (int c = 0; c < 3; ++c) transpose_tile(tiles[c][0], to + x / 2 * 48 + 16 * c);
  }
}

/// (8 pixels, 8 rows) to (4 row pairs, 8 pixels, 2); row pairs are `pair_stride` apart.
HWY_INLINE void scatter_tile(const std::uint8_t* from, std::int64_t pair_stride, std::uint8_t* to) {
  const Tile16 d;
  const Tile64 d64;
  const auto pixels = [&](int i) HWY_ATTR { return hn::BitCast(d, hn::LoadU(Tile(), from + 16 * i)); };
  const auto four = [&](int i, auto& pairs_01, auto& pairs_23) HWY_ATTR {
    const auto even = hn::InterleaveLower(d, pixels(i), pixels(i + 1));
    const auto odd = hn::InterleaveUpper(d, pixels(i), pixels(i + 1));
    pairs_01 = hn::BitCast(d64, hn::InterleaveLower(d, even, odd));
    pairs_23 = hn::BitCast(d64, hn::InterleaveUpper(d, even, odd));
  };
  hn::Vec<Tile64> left_01, left_23, right_01, right_23;
  four(0, left_01, left_23);
  four(2, right_01, right_23);
  hn::StoreU(hn::BitCast(Tile(), hn::InterleaveLower(d64, left_01, right_01)), Tile(), to);
  hn::StoreU(hn::BitCast(Tile(), hn::InterleaveUpper(d64, left_01, right_01)), Tile(), to + pair_stride);
  hn::StoreU(hn::BitCast(Tile(), hn::InterleaveLower(d64, left_23, right_23)), Tile(), to + 2 * pair_stride);
  hn::StoreU(hn::BitCast(Tile(), hn::InterleaveUpper(d64, left_23, right_23)), Tile(), to + 3 * pair_stride);
}

/// One output pixel of eight rows: lanes are rows.
HWY_INLINE void weigh_block(const std::uint8_t* block, const std::int32_t* high, const std::int32_t* low,
                            std::int64_t pairs, std::uint8_t* const* to) {
  for (std::int64_t part = 0; part < kParts; ++part) {
    Sums high_r = hn::Zero(SumTag()), high_g = high_r, high_b = high_r, low_r = high_r, low_g = high_r, low_b = high_r;
    const std::uint8_t* from = block + part * 2 * kSums;
    for (std::int64_t p = 0; p < pairs; ++p, from += 48) {
      const auto h = broadcast_pair(high[p]);
      const auto l = broadcast_pair(low[p]);
      const auto r = hn::PromoteTo(PairTag(), hn::LoadU(ByteTag(), from));
      const auto g = hn::PromoteTo(PairTag(), hn::LoadU(ByteTag(), from + 16));
      const auto b = hn::PromoteTo(PairTag(), hn::LoadU(ByteTag(), from + 32));
      high_r = add_products(high_r, r, h);
      high_g = add_products(high_g, g, h);
      high_b = add_products(high_b, b, h);
      low_r = add_products(low_r, r, l);
      low_g = add_products(low_g, g, l);
      low_b = add_products(low_b, b, l);
    }
    store_rounded(high_r, low_r, to[0] + part * kSums);
    store_rounded(high_g, low_g, to[1] + part * kSums);
    store_rounded(high_b, low_b, to[2] + part * kSums);
  }
}

void resize_rows_simd(const std::uint8_t* box, std::int64_t row_bytes, const std::uint8_t* image_end,
                      std::int64_t first, std::int64_t count, const Weights& x, const PairedRows& rows,
                      std::uint8_t* scratch) {
  const std::int64_t pixels = x.source_end - x.source_begin;
  const std::int64_t columns = (x.outputs + 7) / 8 * 8 * kBlockRows;  // bytes of one colour of a finished block
  std::uint8_t* const finished = scratch;
  std::uint8_t* const block = scratch + 3 * columns;
  for (std::int64_t y = 0; y < count; y += kBlockRows) {
    const std::uint8_t* source[kBlockRows];
    for (std::int64_t r = 0; r < kBlockRows; ++r) {
      source[r] = box + (first + std::min(y + r, count - 1)) * row_bytes + 3 * x.source_begin;
    }
    gather_block(source, pixels, image_end, block);
    for (std::int64_t i = 0; i < x.outputs; ++i) {
      std::uint8_t* const to[3] = {finished + i * kBlockRows, finished + columns + i * kBlockRows,
                                   finished + 2 * columns + i * kBlockRows};
      weigh_block(block + x.first_pair[i] * 48, x.high + i * x.max_pairs, x.low + i * x.max_pairs, x.pairs[i], to);
    }
    for (int c = 0; c < 3; ++c) {
      std::uint8_t* to = rows.data + c * rows.plane_stride + y / 2 * rows.pair_stride;
      for (std::int64_t i = 0; i < x.outputs; i += 8) {
        scatter_tile(finished + c * columns + i * kBlockRows, rows.pair_stride, to + 2 * i);
      }
    }
  }
}

/// kVectors·kSums neighbouring pixels of one row and colour.
template <int kVectors>
HWY_INLINE void weigh_columns(const std::uint8_t* from, std::int64_t pair_stride, const std::int32_t* high,
                              const std::int32_t* low, std::int64_t pairs, std::uint8_t* to) {
  Sums sum_high[kVectors], sum_low[kVectors];
  for (int v = 0; v < kVectors; ++v) sum_high[v] = sum_low[v] = hn::Zero(SumTag());
  for (std::int64_t p = 0; p < pairs; ++p, from += pair_stride) {
    const auto h = broadcast_pair(high[p]);
    const auto l = broadcast_pair(low[p]);
    for (int v = 0; v < kVectors; ++v) {
      const auto pixels = hn::PromoteTo(PairTag(), hn::LoadU(ByteTag(), from + v * 2 * kSums));
      sum_high[v] = add_products(sum_high[v], pixels, h);
      sum_low[v] = add_products(sum_low[v], pixels, l);
    }
  }
  for (int v = 0; v < kVectors; ++v) store_rounded(sum_high[v], sum_low[v], to + v * kSums);
}

void resize_columns_simd(const PairedRows& rows, const Weights& y, const Planes& planes) {
  constexpr int kVectors = 4;
  for (int c = 0; c < 3; ++c) {
    for (std::int64_t i = 0; i < y.outputs; ++i) {
      const std::uint8_t* from = rows.data + c * rows.plane_stride + y.first_pair[i] * rows.pair_stride;
      std::uint8_t* to = planes.plane(c) + i * planes.width;
      const std::int32_t* high = y.high + i * y.max_pairs;
      const std::int32_t* low = y.low + i * y.max_pairs;
      // What is written past the end of a row belongs to the next one, which comes later.
      std::int64_t x = 0;
      for (; x + kVectors * kSums <= planes.width; x += kVectors * kSums) {
        weigh_columns<kVectors>(from + 2 * x, rows.pair_stride, high, low, y.pairs[i], to + x);
      }
      for (; x < planes.width; x += kSums)
        weigh_columns<1>(from + 2 * x, rows.pair_stride, high, low, y.pairs[i], to + x);
    }
  }
}

bool has_vectors_simd() { return true; }

#else  // never called, see has_vectors()

bool has_vectors_simd() { return false; }
void resize_rows_simd(const std::uint8_t*, std::int64_t, const std::uint8_t*, std::int64_t, std::int64_t,
                      const Weights&, const PairedRows&, std::uint8_t*) {}
void resize_columns_simd(const PairedRows&, const Weights&, const Planes&) {}

#endif

}  // namespace dino::cpu::augment::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu::augment {

HWY_EXPORT(has_vectors_simd);
HWY_EXPORT(resize_rows_simd);
HWY_EXPORT(resize_columns_simd);

bool has_vectors() { return HWY_DYNAMIC_DISPATCH(has_vectors_simd)(); }

std::int64_t resize_rows_scratch(const Weights& x) {
  const std::int64_t pixels = (x.source_end - x.source_begin + 15) / 16 * 16;
  return 3 * ((x.outputs + 7) / 8 * 8) * kBlockRows + pixels / 2 * 48 + kSlack;
}

void resize_rows(const std::uint8_t* box, std::int64_t row_bytes, const std::uint8_t* image_end, std::int64_t first,
                 std::int64_t count, const Weights& x, const PairedRows& rows, std::uint8_t* scratch) {
  HWY_DYNAMIC_DISPATCH(resize_rows_simd)(box, row_bytes, image_end, first, count, x, rows, scratch);
}

void resize_columns(const PairedRows& rows, const Weights& y, const Planes& planes) {
  HWY_DYNAMIC_DISPATCH(resize_columns_simd)(rows, y, planes);
}

}  // namespace dino::cpu::augment
#endif
