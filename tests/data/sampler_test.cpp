#include "data/sampler.h"

#include "kernels/common/error.h"
#include "tests/support/catch.h"

#include <algorithm>
#include <numeric>

using namespace dino;

TEST_CASE("an epoch's order is a permutation that depends on seed and epoch") {
  for (const std::int64_t n : {1, 2, 7, 1000}) {
    std::vector<std::int64_t> order = epoch_order(n, 5, 3);
    CHECK(order == epoch_order(n, 5, 3));
    if (n == 1000) {
      CHECK(order != epoch_order(n, 5, 4));
      CHECK(order != epoch_order(n, 6, 3));
      // A third of the places may be expected to move by more than n/3 or so; a shuffle that hardly shuffles fails.
      std::int64_t moved = 0;
      for (std::int64_t i = 0; i < n; ++i) moved += std::abs(order[static_cast<std::size_t>(i)] - i) > n / 4;
      CHECK(moved > n / 3);
    }
    std::sort(order.begin(), order.end());
    std::vector<std::int64_t> all(static_cast<std::size_t>(n));
    std::iota(all.begin(), all.end(), std::int64_t{0});
    CHECK(order == all);
  }
}

TEST_CASE("ranks share an epoch without gaps or repeats, and global batches do not depend on their number") {
  for (const bool shuffle : {true, false}) {
    for (const bool drop_last : {true, false}) {
      for (const int ranks : {1, 2, 3}) {
        const int batch = 12 / ranks;
        std::vector<std::int64_t> seen;
        for (std::int64_t b = 0; b < (drop_last ? 8 : 9); ++b) {
          for (int rank = 0; rank < ranks; ++rank) {
            Sampler sampler({.size = 101,
                             .batch = batch,
                             .rank = rank,
                             .ranks = ranks,
                             .shuffle = shuffle,
                             .drop_last = drop_last,
                             .seed = 4});
            REQUIRE(sampler.batches_per_epoch() == (drop_last ? 8 : 9));
            const auto part = sampler.batch(2, b);
            if (b < 8) CHECK(part.size() == static_cast<std::size_t>(batch));
            seen.insert(seen.end(), part.begin(), part.end());
          }
        }
        std::vector<std::int64_t> expected = epoch_order(101, 4, 2);
        if (!shuffle) std::sort(expected.begin(), expected.end());
        if (drop_last) expected.resize(96);
        CHECK(seen == expected);
      }
    }
  }
}

TEST_CASE("a sampler starts anywhere and goes back") {
  Sampler a({.size = 50, .batch = 10, .seed = 1});
  Sampler b({.size = 50, .batch = 10, .seed = 1});
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) a.batch(epoch, 4);
  CHECK(b.batch(2, 3) == a.batch(2, 3));
  CHECK(a.batch(0, 0) == b.batch(0, 0));
  CHECK(a.batch(1, 0) != a.batch(0, 0));
}

TEST_CASE("a sampler says what makes no sense") {
  CHECK_THROWS_AS(Sampler({.size = 0, .batch = 1}), Error);
  CHECK_THROWS_AS(Sampler({.size = 10, .batch = 0}), Error);
  CHECK_THROWS_AS(Sampler({.size = 10, .batch = 4, .ranks = 3}), Error);
  CHECK_NOTHROW(Sampler({.size = 10, .batch = 4, .ranks = 3, .drop_last = false}));
  CHECK_THROWS_AS(Sampler({.size = 10, .batch = 4, .rank = 2, .ranks = 2}), Error);
  Sampler sampler({.size = 10, .batch = 4});
  CHECK_THROWS_AS(sampler.batch(0, 2), Error);
}
