#include "kernels/common/parallel.h"
#include "kernels/knn/knn.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/knn/knn_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/simd-inl.h"

#ifndef DINO_KNN_CPU_ONCE
#define DINO_KNN_CPU_ONCE
namespace dino::cpu {

/// A tile of products: six queries against bank rows whose packed form stays in the second-level cache. The more of
/// them, the less often all queries come by from memory.
inline constexpr std::int64_t kTileQueries = 6;
inline constexpr std::int64_t kMostTileRows = 512;
inline std::int64_t tile_rows(std::int64_t channels) {
  constexpr std::int64_t kPacked_bytes = 768 << 10, kPanels = 64;  // a multiple of every panel's width
  const std::int64_t rows = kPacked_bytes / (channels * std::int64_t{sizeof(float)});
  return std::clamp(rows / kPanels * kPanels, kPanels, kMostTileRows);
}

/// The k best of a query so far, as a heap with the worst on top.
struct Heap {
  float* values;
  std::int32_t* indices;
  std::int64_t size;

  bool worse(std::int64_t a, std::int64_t b) const {
    return values[a] < values[b] || (values[a] == values[b] && indices[a] > indices[b]);
  }
  /// Moves the element on top of [0, n) down to its place.
  void sift_down(std::int64_t n) {
    std::int64_t at = 0;
    for (;;) {
      std::int64_t child = 2 * at + 1;
      if (child >= n) return;
      if (child + 1 < n && worse(child + 1, child)) ++child;
      if (!worse(child, at)) return;
      std::swap(values[at], values[child]);
      std::swap(indices[at], indices[child]);
      at = child;
    }
  }
  void replace_top(float value, std::int32_t index) {
    values[0] = value;
    indices[0] = index;
    sift_down(size);
  }
  /// Best first; places that were never filled say -1.
  void sort() {
    for (std::int64_t n = size - 1; n > 0; --n) {
      std::swap(values[0], values[n]);
      std::swap(indices[0], indices[n]);
      sift_down(n);
    }
    for (std::int64_t i = 0; i < size; ++i) {
      if (values[i] == -std::numeric_limits<float>::infinity()) indices[i] = -1;
    }
  }
};

}  // namespace dino::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace sm = simd::HWY_NAMESPACE;
using sm::FloatTag;
using sm::FloatVector;

/// Columns of a panel: bank rows side by side, one per lane of two vectors.
HWY_INLINE std::int64_t panel_width() { return 2 * static_cast<std::int64_t>(hn::Lanes(FloatTag())); }

/// packed[panel][c][column] = bank[panel · width + column][c]; columns behind the last row are zero.
void pack(const float* bank, std::int64_t rows, std::int64_t channels, float* packed) {
  const std::int64_t width = panel_width();
  for (std::int64_t first = 0; first < rows; first += width) {
    float* panel = packed + first * channels;
    for (std::int64_t column = 0; column < width; ++column) {
      const float* row = bank + (first + column) * channels;
      const bool present = first + column < rows;
      for (std::int64_t c = 0; c < channels; ++c) panel[c * width + column] = present ? row[c] : 0.0F;
    }
  }
}

/// products[i · kMostTileRows + column] = query i · panel column, for six queries.
void multiply_panel(const float* const (&q)[kTileQueries], const float* panel, std::int64_t channels, float* products) {
  const FloatTag d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const float *q0 = q[0], *q1 = q[1], *q2 = q[2], *q3 = q[3], *q4 = q[4], *q5 = q[5];
  FloatVector a0 = hn::Zero(d), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0;
  FloatVector b0 = a0, b1 = a0, b2 = a0, b3 = a0, b4 = a0, b5 = a0;
  for (std::int64_t c = 0; c < channels; ++c) {
    const FloatVector x = hn::LoadU(d, panel + c * 2 * lanes);
    const FloatVector y = hn::LoadU(d, panel + c * 2 * lanes + lanes);
    FloatVector s = hn::Set(d, q0[c]);
    a0 = hn::MulAdd(s, x, a0);
    b0 = hn::MulAdd(s, y, b0);
    s = hn::Set(d, q1[c]);
    a1 = hn::MulAdd(s, x, a1);
    b1 = hn::MulAdd(s, y, b1);
    s = hn::Set(d, q2[c]);
    a2 = hn::MulAdd(s, x, a2);
    b2 = hn::MulAdd(s, y, b2);
    s = hn::Set(d, q3[c]);
    a3 = hn::MulAdd(s, x, a3);
    b3 = hn::MulAdd(s, y, b3);
    s = hn::Set(d, q4[c]);
    a4 = hn::MulAdd(s, x, a4);
    b4 = hn::MulAdd(s, y, b4);
    s = hn::Set(d, q5[c]);
    a5 = hn::MulAdd(s, x, a5);
    b5 = hn::MulAdd(s, y, b5);
  }
  const auto put = [&](std::int64_t i, FloatVector a, FloatVector b) {
    hn::StoreU(a, d, products + i * kMostTileRows);
    hn::StoreU(b, d, products + i * kMostTileRows + lanes);
  };
  put(0, a0, b0);
  put(1, a1, b1);
  put(2, a2, b2);
  put(3, a3, b3);
  put(4, a4, b4);
  put(5, a5, b5);
}

/// Offers n similarities of the bank rows from `first` on to a query's heap. Rows come in ascending order, so one that
/// only equals the worst of the heap has a higher index and stays out.
void offer(const float* similarity, std::int64_t n, std::int64_t first, Heap& heap) {
  const FloatTag d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t i = 0; i < n; i += lanes) {
    // The tile has whole vectors; what lies behind n is skipped below.
    if (hn::AllFalse(d, hn::Gt(hn::LoadU(d, similarity + i), hn::Set(d, heap.values[0])))) continue;
    for (std::int64_t j = i; j < std::min(n, i + lanes); ++j) {
      if (similarity[j] > heap.values[0]) heap.replace_top(similarity[j], static_cast<std::int32_t>(first + j));
    }
  }
}

void neighbors_of_range(const NearestNeighbors& args, std::int64_t begin, std::int64_t end, float* packed) {
  HWY_ALIGN float products[kTileQueries * kMostTileRows];
  const std::int64_t channels = args.queries.extent(1);
  const std::int64_t rows = args.bank.extent(0);
  const std::int64_t k = args.similarities.extent(1);
  const float* queries = args.queries.as<float>();
  const auto heap_of = [&](std::int64_t q) {
    return Heap{args.similarities.as<float>() + q * k, args.indices.as<std::int32_t>() + q * k, k};
  };
  std::fill(heap_of(begin).values, heap_of(end).values, -std::numeric_limits<float>::infinity());
  std::fill(heap_of(begin).indices, heap_of(end).indices, std::numeric_limits<std::int32_t>::max());
  const std::int64_t most = tile_rows(channels);
  for (std::int64_t first = 0; first < rows; first += most) {
    const std::int64_t n = std::min(most, rows - first);
    pack(args.bank.as<float>() + first * channels, n, channels, packed);
    for (std::int64_t q = begin; q < end; q += kTileQueries) {
      const std::int64_t present = std::min(kTileQueries, end - q);
      const float* tile_queries[kTileQueries];
      for (std::int64_t i = 0; i < kTileQueries; ++i) tile_queries[i] = queries + std::min(q + i, end - 1) * channels;
      for (std::int64_t column = 0; column < n; column += panel_width()) {
        multiply_panel(tile_queries, packed + column * channels, channels, products + column);
      }
      for (std::int64_t i = 0; i < present; ++i) {
        Heap heap = heap_of(q + i);
        offer(products + i * kMostTileRows, n, first, heap);
      }
    }
  }
  for (std::int64_t q = begin; q < end; ++q) heap_of(q).sort();
}

void nearest_neighbors_all(const NearestNeighbors& args, std::byte* scratch, std::size_t bytes_per_thread) {
  parallel_for(args.queries.extent(0), kTileQueries, [&](std::int64_t begin, std::int64_t end) {
    auto* packed =
        reinterpret_cast<float*>(scratch + static_cast<std::size_t>(omp_get_thread_num()) * bytes_per_thread);
    neighbors_of_range(args, begin, end, packed);
  });
}

}  // namespace dino::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu {

HWY_EXPORT(nearest_neighbors_all);

void nearest_neighbors(const NearestNeighbors& args, Stream& stream) {
  check(args);
  const std::size_t bytes_per_thread =
      static_cast<std::size_t>(tile_rows(args.bank.extent(1)) * args.bank.extent(1)) * sizeof(float);
  auto* scratch =
      static_cast<std::byte*>(stream.scratch(bytes_per_thread * static_cast<std::size_t>(omp_get_max_threads())));
  HWY_DYNAMIC_DISPATCH(nearest_neighbors_all)(args, scratch, bytes_per_thread);
}

namespace {

/// The classes with most votes, by insertion: five comparisons at most for each class.
void top_classes(const double* votes, std::int32_t classes, std::int32_t* top) {
  std::fill_n(top, kTopClasses, -1);
  for (std::int32_t c = 0; c < classes; ++c) {
    int place = kTopClasses;
    while (place > 0 && (top[place - 1] < 0 || votes[c] > votes[top[place - 1]])) --place;
    if (place == kTopClasses) continue;
    std::copy_backward(top + place, top + kTopClasses - 1, top + kTopClasses);
    top[place] = c;
  }
}

}  // namespace

void knn_vote(const KnnVote& args, Stream& stream) {
  check(args);
  const std::int64_t queries = args.similarities.extent(0);
  const std::int64_t k = args.similarities.extent(1);
  const auto classes = static_cast<std::size_t>(args.classes);
  auto* scratch =
      static_cast<double*>(stream.scratch(classes * sizeof(double) * static_cast<std::size_t>(omp_get_max_threads())));
  parallel_for(queries, 16, [&](std::int64_t begin, std::int64_t end) {
    double* votes = scratch + static_cast<std::size_t>(omp_get_thread_num()) * classes;
    for (std::int64_t q = begin; q < end; ++q) {
      std::fill_n(votes, classes, 0.0);
      std::int64_t n = 0;
      for (std::size_t j = 0; j < args.ks.size(); ++j) {
        for (; n < args.ks[j]; ++n) {
          const std::int32_t row = args.indices.as<std::int32_t>()[q * k + n];
          if (row < 0) continue;
          const auto similarity = static_cast<double>(args.similarities.as<float>()[q * k + n]);
          votes[args.labels.as<std::int32_t>()[row]] += std::exp(similarity / args.temperature);
        }
        top_classes(votes, args.classes,
                    args.predictions.as<std::int32_t>() + (static_cast<std::int64_t>(j) * queries + q) * kTopClasses);
      }
    }
  });
}

}  // namespace dino::cpu
#endif
