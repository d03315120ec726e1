#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <utility>

namespace dino {

/// Rows [begin, end) of n that thread `thread` of `threads` works on: contiguous, as even as possible.
inline std::pair<std::int64_t, std::int64_t> thread_range(std::int64_t n, int thread, int threads) {
  const std::int64_t share = n / threads;
  const std::int64_t rest = n % threads;
  const std::int64_t begin = thread * share + std::min<std::int64_t>(thread, rest);
  return {begin, begin + share + (thread < rest ? 1 : 0)};
}

/// Calls `body(begin, end)` on disjoint ranges that cover [0, n), one per thread, when every thread gets at least
/// `grain` items; else once, on the calling thread. Ranges depend on n and the number of threads only. `body`
/// must not throw.
template <typename Body>
void parallel_for(std::int64_t n, std::int64_t grain, Body&& body) {
  const int threads =
      static_cast<int>(std::min<std::int64_t>(omp_get_max_threads(), n / std::max<std::int64_t>(grain, 1)));
  if (threads <= 1) {
    if (n > 0) body(std::int64_t{0}, n);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const auto [begin, end] = thread_range(n, omp_get_thread_num(), omp_get_num_threads());
    if (begin < end) body(begin, end);
  }
}

/// Calls `body(i)` for every i in [0, n), each on the thread that is free next: for items of uneven cost, none of which
/// may depend on the thread or on another item. `body` must not throw.
template <typename Body>
void parallel_items(std::int64_t n, Body&& body) {
  const int threads = static_cast<int>(std::min<std::int64_t>(omp_get_max_threads(), n));
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
  for (std::int64_t i = 0; i < n; ++i) body(i);
}

}  // namespace dino
