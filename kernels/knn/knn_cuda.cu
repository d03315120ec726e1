#include "kernels/common/cuda/launch.h"
#include "kernels/knn/knn.h"

#include <algorithm>
#include <limits>

// nearest_neighbors
//   1. search_tiles  a block per 64 queries and part of the bank. Tiles of 64 rows are multiplied through shared
//   memory,
//                    each thread 4 x 4 products, each product one chain of fused multiply-adds over its C terms: equal
//                    rows have equal similarities wherever they lie. A warp then offers the products of its queries to
//                    their lists of the k best, 32 candidates at a time: they are collected, sorted in registers and
//                    merged into the sorted list.
//   2. merge_lists   where the bank has several parts, a warp per query merges their lists.
// Flops: 2·Q·M·C; bound by fp32 arithmetic. Bytes: the bank once per 64 queries, 4·M·C·Q / 64. The lists, 8·Q·k bytes
// for each part, are in global memory and change some k ln(M / k) / 16 times a query. The order of neighbours is total
// (similarity, then index), so neither tiles nor parts can change a result. knn_vote: a warp per query and k. A class's
// first neighbour adds up its votes, in order, in double: k² / 32 comparisons a lane instead of a counter per class.
// Reference: knn_reference.cpp.

namespace dino::cuda {
namespace {

constexpr int kTile = 64;   // queries, and rows of the bank
constexpr int kDepth = 16;  // channels at a time
constexpr int kEach = 4;    // products of a thread: kEach x kEach
constexpr int kThreads = (kTile / kEach) * (kTile / kEach);
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kStride = kTile + 4;  // of a row in shared memory: still multiples of 16 bytes
constexpr std::int32_t kNobody = std::numeric_limits<std::int32_t>::max();
constexpr int kPartsPerLane = 4;
constexpr int kMaxParts = kPartsPerLane * kWarpSize;

struct Neighbour {
  float similarity;
  std::int32_t index;
};

__device__ __forceinline__ float minus_infinity() { return -std::numeric_limits<float>::infinity(); }

/// Whether a comes before b.
__device__ __forceinline__ bool before(Neighbour a, Neighbour b) {
  return a.similarity > b.similarity || (a.similarity == b.similarity && a.index < b.index);
}

__device__ __forceinline__ int own_lane() { return static_cast<int>(threadIdx.x) % kWarpSize; }

__device__ __forceinline__ Neighbour of_lane(Neighbour mine, int lane) {
  return {__shfl_sync(kWholeWarp, mine.similarity, lane), __shfl_sync(kWholeWarp, mine.index, lane)};
}

/// Sorts one neighbour per lane, the best into lane 0: a bitonic network.
__device__ __forceinline__ Neighbour sorted(Neighbour mine) {
  const int lane = own_lane();
#pragma unroll
  for (int size = 2; size <= kWarpSize; size *= 2) {
#pragma unroll
    for (int distance = size / 2; distance > 0; distance /= 2) {
      const Neighbour other{__shfl_xor_sync(kWholeWarp, mine.similarity, distance),
                            __shfl_xor_sync(kWholeWarp, mine.index, distance)};
      const bool wants_better = ((lane & distance) == 0) == ((lane & size) == 0);
      if (wants_better ? before(other, mine) : before(mine, other)) mine = other;
    }
  }
  return mine;
}

/// A query's k best so far in order, in global memory; one warp works on it.
struct List {
  float* similarities;
  std::int32_t* indices;
  int size;

  __device__ __forceinline__ Neighbour at(int i) const { return {similarities[i], indices[i]}; }
  __device__ __forceinline__ void put(int i, Neighbour neighbour) const {
    similarities[i] = neighbour.similarity;
    indices[i] = neighbour.index;
  }

  /// Merges a sorted neighbour per lane; those at -∞ are none.
  __device__ void merge(Neighbour mine) const {
    const int lane = own_lane();
    int begin = 0;
    for (int end = size; begin < end;) {
      const int middle = (begin + end) / 2;
      before(at(middle), mine) ? begin = middle + 1 : end = middle;
    }
    const int place = begin + lane;
    __syncwarp();
    // From the back, so that what is moved to was read before. An entry moves by the number of new ones before it.
    for (int first = (size - 1) / kWarpSize * kWarpSize; first >= 0; first -= kWarpSize) {
      const int i = first + lane;
      const Neighbour entry = i < size ? at(i) : Neighbour{minus_infinity(), kNobody};
      int steps = 0;
#pragma unroll
      for (int step = kWarpSize / 2; step > 0; step /= 2) {
        if (before(of_lane(mine, steps + step - 1), entry)) steps += step;
      }
      if (before(of_lane(mine, steps), entry)) ++steps;
      if (!__any_sync(kWholeWarp, i < size && steps > 0)) break;
      __syncwarp();  // all lanes have read: a vote alone orders no memory
      if (steps > 0 && i + steps < size) put(i + steps, entry);
      __syncwarp();
    }
    if (mine.similarity > minus_infinity() && place < size) put(place, mine);
    __syncwarp();
  }
};

struct Search {
  const float *queries, *bank;
  float* similarities;  // (parts, Q, k)
  std::int32_t* indices;
  int query_count, rows, channels, k;
  int rows_per_part;
};

struct SearchShared {
  float queries[kDepth][kStride];
  float bank[kDepth][kStride];
  float products[kTile][kStride];
  Neighbour candidates[kTile][kWarpSize];
  int candidate_count[kTile];
  float worst[kTile];  // similarity at the end of the list
};

/// A slice of kDepth channels of up to kTile rows, transposed; zero outside of them.
__device__ __forceinline__ void load_slice(const float* from, int first, int end, int channel, int channels,
                                           float (&to)[kDepth][kStride]) {
#pragma unroll
  for (int i = 0; i < kTile * kDepth / kThreads; ++i) {
    const int element = i * kThreads + static_cast<int>(threadIdx.x);
    const int row = first + element / kDepth;
    const int c = channel + element % kDepth;
    to[element % kDepth][element / kDepth] = row < end && c < channels ? from[std::int64_t{row} * channels + c] : 0.0F;
  }
}

/// Takes what a query has collected into its list.
__device__ __forceinline__ void flush(SearchShared& shared, int q, const List& list) {
  const int lane = own_lane();
  const int count = shared.candidate_count[q];
  const Neighbour mine = lane < count ? shared.candidates[q][lane] : Neighbour{minus_infinity(), kNobody};
  list.merge(sorted(mine));
  if (lane == 0) {
    shared.candidate_count[q] = 0;
    shared.worst[q] = list.similarities[list.size - 1];
  }
  __syncwarp();
}

/// Offers a neighbour per lane to a query. Rows come in ascending order, so one that only equals the worst stays out;
/// so do NaN and -∞.
__device__ __forceinline__ void offer(SearchShared& shared, int q, const List& list, Neighbour mine) {
  const bool passes = mine.similarity > shared.worst[q];
  const unsigned passing = __ballot_sync(kWholeWarp, passes);
  if (passing == 0) return;
  const int count = __popc(passing);
  if (shared.candidate_count[q] + count > kWarpSize) flush(shared, q, list);
  const int start = shared.candidate_count[q];
  if (passes) shared.candidates[q][start + __popc(passing & ((1U << own_lane()) - 1U))] = mine;
  __syncwarp();
  if (own_lane() == 0) shared.candidate_count[q] = start + count;
  __syncwarp();
}

/// Block (64 queries, part of the bank).
__global__ void __launch_bounds__(kThreads) search_tiles(const Search args) {
  auto& shared = shared_memory<SearchShared>();
  const int first_query = static_cast<int>(blockIdx.x) * kTile;
  const int begin = static_cast<int>(blockIdx.y) * args.rows_per_part;
  const int end = args.rows - begin < args.rows_per_part ? args.rows : begin + args.rows_per_part;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = own_lane();
  const auto list_of = [&](int q) {
    const std::int64_t start = (std::int64_t{blockIdx.y} * args.query_count + first_query + q) * args.k;
    return List{args.similarities + start, args.indices + start, args.k};
  };
  // A warp's own queries: every kWarps-th.
  const int present = args.query_count - first_query < kTile ? args.query_count - first_query : kTile;
  for (int q = warp; q < present; q += kWarps) {
    const List list = list_of(q);
    for (int i = lane; i < args.k; i += kWarpSize) list.put(i, {minus_infinity(), kNobody});
    if (lane == 0) {
      shared.candidate_count[q] = 0;
      shared.worst[q] = minus_infinity();
    }
  }
  const int y = static_cast<int>(threadIdx.x) / (kTile / kEach) * kEach;  // of the thread's products
  const int x = static_cast<int>(threadIdx.x) % (kTile / kEach) * kEach;
  for (int first = begin; first < end; first += kTile) {
    float sums[kEach][kEach] = {};
    __syncthreads();
    for (int channel = 0; channel < args.channels; channel += kDepth) {
      load_slice(args.queries, first_query, args.query_count, channel, args.channels, shared.queries);
      load_slice(args.bank, first, end, channel, args.channels, shared.bank);
      __syncthreads();
#pragma unroll
      for (int c = 0; c < kDepth; ++c) {
        float query[kEach];
        float row[kEach];
        load(&shared.queries[c][y], query);
        load(&shared.bank[c][x], row);
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
#pragma unroll
          for (int j = 0; j < kEach; ++j) sums[i][j] = fmaf(query[i], row[j], sums[i][j]);
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) store(sums[i], &shared.products[y + i][x]);
    __syncthreads();
    for (int q = warp; q < present; q += kWarps) {
      const List list = list_of(q);
      for (int column = lane; column < kTile; column += kWarpSize) {
        const int row = first + column;
        offer(shared, q, list, {row < end ? shared.products[q][column] : minus_infinity(), row});
      }
    }
  }
  const bool last = gridDim.y == 1;
  for (int q = warp; q < present; q += kWarps) {
    const List list = list_of(q);
    flush(shared, q, list);
    for (int i = lane; last && i < args.k; i += kWarpSize) {
      if (list.indices[i] == kNobody) list.indices[i] = -1;
    }
  }
}

struct Merge {
  const float* part_similarities;  // (parts, Q, k)
  const std::int32_t* part_indices;
  float* similarities;  // (Q, k)
  std::int32_t* indices;
  int parts, query_count, k;
};

/// A warp per query; lanes hold the heads of the parts' lists.
__global__ void __launch_bounds__(kThreads) merge_lists(const Merge args) {
  const int query = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / kWarpSize;
  if (query >= args.query_count) return;  // all lanes of a warp together
  const int lane = own_lane();
  int taken[kPartsPerLane] = {};
  Neighbour heads[kPartsPerLane];
  const auto head = [&](int p) {
    const int part = lane + p * kWarpSize;
    if (part >= args.parts || taken[p] >= args.k) return Neighbour{minus_infinity(), kNobody};
    const std::int64_t at = (std::int64_t{part} * args.query_count + query) * args.k + taken[p];
    return Neighbour{args.part_similarities[at], args.part_indices[at]};
  };
#pragma unroll
  for (int p = 0; p < kPartsPerLane; ++p) heads[p] = head(p);
  for (int n = 0; n < args.k; ++n) {
    Neighbour best = heads[0];
#pragma unroll
    for (int p = 1; p < kPartsPerLane; ++p) {
      if (before(heads[p], best)) best = heads[p];
    }
#pragma unroll
    for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
      const Neighbour other{__shfl_xor_sync(kWholeWarp, best.similarity, distance),
                            __shfl_xor_sync(kWholeWarp, best.index, distance)};
      if (before(other, best)) best = other;
    }
    const bool nobody = best.index == kNobody;
    if (lane == 0) {
      const std::int64_t at = std::int64_t{query} * args.k + n;
      args.similarities[at] = best.similarity;
      args.indices[at] = nobody ? -1 : best.index;
    }
    if (nobody) continue;
#pragma unroll
    for (int p = 0; p < kPartsPerLane; ++p) {
      if (heads[p].index != best.index) continue;
      ++taken[p];
      heads[p] = head(p);
    }
  }
}

struct Vote {
  const float* similarities;
  const std::int32_t *indices, *labels;
  std::int32_t* predictions;  // (Q, 5)
  int k, used;                // neighbours that a query has, and that vote
  std::int32_t classes;
  double temperature;
};

/// Weight, votes and class of a neighbour in shared memory.
constexpr int kVoteBytes = 2 * sizeof(double) + sizeof(std::int32_t);
constexpr int kMostVotes = 48 * 1024 / kVoteBytes;

/// A block, of one warp, per query.
__global__ void __launch_bounds__(kWarpSize) vote_queries(const Vote args) {
  auto* weights = &shared_memory<double>();
  double* votes = weights + args.used;
  auto* classes = reinterpret_cast<std::int32_t*>(votes + args.used);
  const int lane = own_lane();
  const std::int64_t start = std::int64_t{blockIdx.x} * args.k;
  for (int n = lane; n < args.used; n += kWarpSize) {
    const std::int32_t row = args.indices[start + n];
    classes[n] = row < 0 ? -1 : args.labels[row];
    weights[n] = row < 0 ? 0.0 : exp(static_cast<double>(args.similarities[start + n]) / args.temperature);
  }
  __syncthreads();
  for (int n = lane; n < args.used; n += kWarpSize) {
    const std::int32_t own = classes[n];
    bool is_first = own >= 0;
    for (int m = 0; m < n; ++m) is_first = is_first && classes[m] != own;
    double sum = 0;
    for (int m = n; is_first && m < args.used; ++m) {
      if (classes[m] == own) sum += weights[m];
    }
    votes[n] = sum;  // 0: like a class that nobody voted for
  }
  std::int32_t top[kTopClasses];
#pragma unroll
  for (int place = 0; place < kTopClasses; ++place) {
    double most = 0;
    std::int32_t winner = -1;
    for (int n = lane; n < args.used; n += kWarpSize) {
      if (votes[n] > most || (votes[n] == most && winner >= 0 && classes[n] < winner)) {
        most = votes[n];
        winner = classes[n];
      }
    }
#pragma unroll
    for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
      const double other = __shfl_xor_sync(kWholeWarp, most, distance);
      const std::int32_t other_winner = __shfl_xor_sync(kWholeWarp, winner, distance);
      if (other > most || (other == most && other_winner >= 0 && (winner < 0 || other_winner < winner))) {
        most = other;
        winner = other_winner;
      }
    }
    top[place] = winner;
    // Its votes count once.
    for (int n = lane; winner >= 0 && n < args.used; n += kWarpSize) {
      if (classes[n] == winner) votes[n] = 0;
    }
  }
  if (lane != 0) return;
  // The rest are the lowest classes without votes.
  std::int32_t next = 0;
  std::int32_t* predictions = args.predictions + std::int64_t{blockIdx.x} * kTopClasses;
#pragma unroll
  for (int place = 0; place < kTopClasses; ++place) {
    if (top[place] < 0) {
      const auto is_taken = [&] {
        bool taken = false;
#pragma unroll
        for (int i = 0; i < kTopClasses; ++i) taken = taken || top[i] == next;
        return taken;
      };
      while (is_taken()) ++next;
      if (next < args.classes) top[place] = next;
    }
    predictions[place] = top[place];
  }
}

}  // namespace

void nearest_neighbors(const NearestNeighbors& args, Stream& stream) {
  check(args);
  const std::int64_t queries = args.queries.extent(0);
  const std::int64_t rows = args.bank.extent(0);
  const std::int64_t k = args.similarities.extent(1);
  // Parts enough for some blocks on every multiprocessor, of rows enough that their lists are a small matter.
  constexpr std::int64_t kBlocks = 1024;
  constexpr std::int64_t kLeastRows = 1024;
  const unsigned tiles = blocks_for(queries, kTile);
  const std::int64_t most_parts =
      std::clamp<std::int64_t>(kBlocks / std::max<std::int64_t>(1, tiles), 1, std::int64_t{kMaxParts});
  const std::int64_t least_rows = std::max({kLeastRows, 4 * k, (rows + most_parts - 1) / most_parts});
  const std::int64_t rows_per_part = std::min(rows, (least_rows + kTile - 1) / kTile * kTile);
  const unsigned parts = blocks_for(rows, rows_per_part);
  const std::int64_t places = queries * k;
  auto* similarities = args.similarities.as<float>();
  auto* indices = args.indices.as<std::int32_t>();
  if (parts > 1) {
    const std::size_t bytes = parts * static_cast<std::size_t>(places) * (sizeof(float) + sizeof(std::int32_t));
    similarities = static_cast<float*>(stream.scratch(bytes));
    indices = reinterpret_cast<std::int32_t*>(similarities + parts * places);
  }
  const Search search{.queries = args.queries.as<float>(),
                      .bank = args.bank.as<float>(),
                      .similarities = similarities,
                      .indices = indices,
                      .query_count = static_cast<int>(queries),
                      .rows = static_cast<int>(rows),
                      .channels = static_cast<int>(args.queries.extent(1)),
                      .k = static_cast<int>(k),
                      .rows_per_part = static_cast<int>(rows_per_part)};
  launch(search_tiles, {dim3(tiles, parts), kThreads, sizeof(SearchShared)}, stream, search);
  if (parts == 1) return;
  const Merge merge{.part_similarities = similarities,
                    .part_indices = indices,
                    .similarities = args.similarities.as<float>(),
                    .indices = args.indices.as<std::int32_t>(),
                    .parts = static_cast<int>(parts),
                    .query_count = static_cast<int>(queries),
                    .k = static_cast<int>(k)};
  launch(merge_lists, {blocks_for(queries, kWarps), kThreads}, stream, merge);
}

void knn_vote(const KnnVote& args, Stream& stream) {
  check(args);
  const std::int64_t queries = args.similarities.extent(0);
  for (std::size_t j = 0; j < args.ks.size(); ++j) {
    require(args.ks[j] <= kMostVotes, "knn_vote", "at most {} neighbours vote; got {}", kMostVotes, args.ks[j]);
    const Vote vote{
        .similarities = args.similarities.as<float>(),
        .indices = args.indices.as<std::int32_t>(),
        .labels = args.labels.as<std::int32_t>(),
        .predictions = args.predictions.as<std::int32_t>() + static_cast<std::int64_t>(j) * queries * kTopClasses,
        .k = static_cast<int>(args.similarities.extent(1)),
        .used = args.ks[j],
        .classes = args.classes,
        .temperature = args.temperature};
    launch(vote_queries,
           {static_cast<unsigned>(queries), kWarpSize, static_cast<std::size_t>(args.ks[j]) * std::size_t{kVoteBytes}},
           stream, vote);
  }
}

}  // namespace dino::cuda
