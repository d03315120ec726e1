#include "engine/random.h"

#include "tests/support/catch.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <vector>

using namespace dino;

TEST_CASE("Philox4x32-10 gives the numbers that its authors published") {
  // Random123's known-answer file, kat_vectors.
  struct Known {
    std::uint64_t key, low, high;
    std::uint32_t x[4];
  };
  const Known known[] = {
      {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {~0ULL, ~0ULL, ~0ULL, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {0x299f31d0a4093822ULL,
       0x85a308d3243f6a88ULL,
       0x0370734413198a2eULL,
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const Known& k : known) {
    const Philox::Block block = Philox::draw(k.key, k.low, k.high);
    for (int i = 0; i < 4; ++i) CHECK(block.x[i] == k.x[i]);
  }
}

TEST_CASE("draws are a function of seed, stream, epoch, sample and view, and of nothing else") {
  const auto draws = [](Random random) {
    std::vector<std::uint32_t> result;
    for (int i = 0; i < 9; ++i) result.push_back(random.bits());
    return result;
  };
  std::set<std::vector<std::uint32_t>> seen;
  int count = 0;
  for (const std::uint64_t seed : {0, 1}) {
    for (const RandomStream stream : {RandomStream::crops, RandomStream::order}) {
      for (const std::uint64_t epoch : {0, 1, 99}) {
        for (const std::uint64_t sample : {0, 1, 1000000}) {
          for (const std::uint32_t view : {0, 1, 9}) {
            const Random random(seed, stream, epoch, sample, view);
            CHECK(draws(random) == draws(Random(seed, stream, epoch, sample, view)));
            seen.insert(draws(random));
            ++count;
          }
        }
      }
    }
  }
  CHECK(seen.size() == static_cast<std::size_t>(count));
}

TEST_CASE("no block of draws repeats between neighbouring samples") {
  std::set<std::uint32_t> seen;
  for (std::uint64_t sample = 0; sample < 100; ++sample) {
    Random random(1, RandomStream::test, 0, sample);
    for (int i = 0; i < 100; ++i) seen.insert(random.bits());
  }
  CHECK(seen.size() >= 9990);  // 10000 of 2^32: about 0.01 coincidences are expected
}

TEST_CASE("draws do not repeat where there are more than a sample's part of the counter can tell apart") {
  // As many as the weights of 2^18 prototypes of width 256; after them a number with these bits would stay as it is.
  constexpr std::int64_t kDraws = std::int64_t{1} << 26;
  Random random(7, RandomStream::weights, 0, 0xff);
  const auto next_eight = [&] {
    std::vector<std::uint32_t> draws;
    for (int i = 0; i < 8; ++i) draws.push_back(random.bits());
    return draws;
  };
  const auto first = next_eight();
  std::uint32_t all = 0;
  for (std::int64_t i = 8; i < kDraws; ++i) all |= random.bits();
  CHECK(all == ~std::uint32_t{0});
  const auto behind = next_eight();
  for (std::size_t i = 0; i < first.size(); ++i) CHECK(first[i] != behind[i]);
}

TEST_CASE("uniform numbers lie in [0, 1) and spread evenly") {
  Random random(2, RandomStream::test);
  std::vector<int> bins(16, 0);
  constexpr int kDraws = 160000;
  for (int i = 0; i < kDraws; ++i) {
    const float x = random.uniform();
    REQUIRE((x >= 0.0F && x < 1.0F));
    ++bins[static_cast<std::size_t>(x * 16.0F)];
  }
  double chi_square = 0;
  for (const int bin : bins) chi_square += (bin - 10000.0) * (bin - 10000.0) / 10000.0;
  CHECK(chi_square <= 45.0);  // 15 degrees of freedom: 1 in 10000
  CHECK(chi_square >= 1.5);   // too even is no good either
  CHECK(Philox::to_unit_float(0xffffffffu) < 1.0F);
  CHECK(Philox::to_unit_float(0) == 0.0F);
}

TEST_CASE("uniform numbers between bounds stay there") {
  Random random(3, RandomStream::test);
  for (int i = 0; i < 1000; ++i) {
    const double x = random.uniform(-2.0, 5.0);
    REQUIRE((x >= -2.0 && x < 5.0));
  }
}

TEST_CASE("integers below n are all drawn, evenly") {
  Random random(4, RandomStream::test);
  for (const std::uint32_t n : {1u, 2u, 3u, 7u, 10u}) {
    std::map<std::uint32_t, int> counts;
    for (std::uint32_t i = 0; i < 2000 * n; ++i) ++counts[random.below(n)];
    CHECK(counts.size() == n);
    for (const auto& [value, count] : counts) {
      CHECK(value < n);
      CHECK(std::abs(count - 2000) <= 220);  // five deviations
    }
  }
  for (int i = 0; i < 100; ++i) CHECK(random.below(0x80000001u) <= 0x80000000u);
}

TEST_CASE("normal numbers have the moments of the normal distribution") {
  Random random(5, RandomStream::test);
  constexpr int kDraws = 100000;
  double sums[4] = {};
  double largest = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double x = random.normal();
    REQUIRE(std::isfinite(x));
    for (int p = 0; p < 4; ++p) sums[p] += std::pow(x, p + 1) / kDraws;
    largest = std::max(largest, std::abs(x));
  }
  CHECK(std::abs(sums[0]) <= 0.015);
  CHECK(std::abs(sums[1] - 1.0) <= 0.02);
  CHECK(std::abs(sums[2]) <= 0.06);
  CHECK(std::abs(sums[3] - 3.0) <= 0.15);
  CHECK(largest >= 3.5);
}

TEST_CASE("chance keeps to its probability") {
  Random random(6, RandomStream::test);
  int hits = 0;
  for (int i = 0; i < 10000; ++i) {
    hits += random.chance(0.2) ? 1 : 0;
    REQUIRE_FALSE(random.chance(0.0));
    REQUIRE(random.chance(1.0));
  }
  CHECK(std::abs(hits - 2000) <= 200);
}

TEST_CASE("names hash as FNV-1a says") {
  CHECK(stable_hash("") == 0xcbf29ce484222325u);
  CHECK(stable_hash("a") == 0xaf63dc4c8601ec8cu);
  CHECK(stable_hash("foobar") == 0x85944171f73967e8u);
}
