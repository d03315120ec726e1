#include "kernels/knn/knn.h"

#include "tests/support/catch.h"
#include "tests/support/every_stream.h"
#include "tests/support/host_array.h"

#include <omp.h>

#include <cmath>
#include <limits>
#include <vector>

using namespace dino;
using namespace dino::test;

namespace {

/// Rows of small multiples of 1/8: their products are exact in fp32 in any order, and many are equal.
HostArray coarse(const Shape& shape, std::uint64_t seed, int misalign) {
  HostArray result = random_normal(DType::float32, shape, seed, 2.0, 0, misalign);
  for (std::int64_t i = 0; i < result.size(); ++i) result.set(i, std::round(result.at(i)) / 8);
  return result;
}

struct Neighbors {
  Neighbors(std::int64_t queries, std::int64_t k)
      : similarities(DType::float32, {queries, k}), indices(DType::int32, {queries, k}) {}
  HostArray similarities, indices;
};

void check_same_indices(const HostArray& got, const HostArray& expected) {
  for (std::int64_t i = 0; i < expected.size(); ++i) {
    if (got.as<std::int32_t>()[i] != expected.as<std::int32_t>()[i]) {
      FAIL("place " << i << ": got " << got.as<std::int32_t>()[i] << ", expected " << expected.as<std::int32_t>()[i]);
    }
  }
}

}  // namespace

static void check_exact(Stream& stream);
TEST_CASE("nearest_neighbors agrees with the oracle, equal similarities included", "[device]") {
  every_stream(check_exact);
}
static void check_exact(Stream& stream) {
  struct Case {
    std::int64_t queries, bank, channels, k;
  };
  const Case cases[] = {{1, 1, 1, 1},        {1, 5, 3, 5},      {7, 127, 17, 10}, {13, 128, 4, 128}, {5, 129, 2, 100},
                        {31, 1000, 48, 200}, {6, 300, 384, 20}, {66, 70, 3, 33},  {3, 2100, 2, 7},   {2, 4300, 1, 200}};
  for (const Case& c : cases) {
    for (const int misalign : {0, 1}) {
      INFO(c.queries << " queries, " << c.bank << " rows, " << c.channels << " channels, k " << c.k);
      const HostArray queries = coarse({c.queries, c.channels}, 1, misalign);
      const HostArray bank = coarse({c.bank, c.channels}, 2, misalign);
      const Neighbors got(c.queries, c.k), expected(c.queries, c.k);
      nearest_neighbors({.queries = queries, .bank = bank, .similarities = got.similarities, .indices = got.indices},
                        stream);
      reference::nearest_neighbors(
          {.queries = queries, .bank = bank, .similarities = expected.similarities, .indices = expected.indices});
      check_close(got.similarities, expected.similarities, 0.0, "similarities");
      check_same_indices(got.indices, expected.indices);
    }
  }
}

static void check_real_values(Stream& stream);
TEST_CASE("nearest_neighbors of real-valued features", "[device]") { every_stream(check_real_values); }
static void check_real_values(Stream& stream) {
  const HostArray queries = random_normal(DType::float32, {20, 384}, 1, 0.05);
  const HostArray bank = random_normal(DType::float32, {700, 384}, 2, 0.05);
  const Neighbors got(20, 50), expected(20, 50);
  nearest_neighbors({.queries = queries, .bank = bank, .similarities = got.similarities, .indices = got.indices},
                    stream);
  reference::nearest_neighbors(
      {.queries = queries, .bank = bank, .similarities = expected.similarities, .indices = expected.indices});
  check_close(got.similarities, expected.similarities, 1e-6, "similarities");
}

static void check_equal_rows(Stream& stream);
TEST_CASE("nearest_neighbors: equal rows of the bank come in the order of their index, wherever they lie", "[device]") {
  every_stream(check_equal_rows);
}
static void check_equal_rows(Stream& stream) {
  const HostArray queries = random_normal(DType::float32, {8, 20}, 1);
  const HostArray one = random_normal(DType::float32, {1, 20}, 2);
  HostArray bank(DType::float32, {1333, 20});
  for (std::int64_t i = 0; i < bank.size(); ++i) bank.set(i, one.at(i % 20));
  const int threads = omp_get_max_threads();
  for (const int count : {1, 3}) {
    omp_set_num_threads(count);
    const Neighbors got(8, 40);
    nearest_neighbors({.queries = queries, .bank = bank, .similarities = got.similarities, .indices = got.indices},
                      stream);
    for (std::int64_t q = 0; q < 8; ++q) {
      for (std::int64_t n = 0; n < 40; ++n) CHECK(got.indices.as<std::int32_t>()[q * 40 + n] == n);
    }
  }
  omp_set_num_threads(threads);
}

static void check_nan(Stream& stream);
TEST_CASE("nearest_neighbors: what is not a number is no neighbour", "[device]") { every_stream(check_nan); }
static void check_nan(Stream& stream) {
  const HostArray queries = random_normal(DType::float32, {2, 4}, 1);
  HostArray bank = random_normal(DType::float32, {3, 4}, 2);
  bank.set(5, std::numeric_limits<double>::quiet_NaN());
  const Neighbors got(2, 3), expected(2, 3);
  nearest_neighbors({.queries = queries, .bank = bank, .similarities = got.similarities, .indices = got.indices},
                    stream);
  reference::nearest_neighbors(
      {.queries = queries, .bank = bank, .similarities = expected.similarities, .indices = expected.indices});
  check_same_indices(got.indices, expected.indices);
  CHECK(got.indices.as<std::int32_t>()[2] == -1);
  CHECK(got.similarities.at(2) == -std::numeric_limits<double>::infinity());
}

static void check_votes(Stream& stream);
TEST_CASE("knn_vote agrees with the oracle", "[device]") { every_stream(check_votes); }
static void check_votes(Stream& stream) {
  for (const std::int32_t classes : {1, 3, 5, 40}) {
    const std::int64_t queries = 50, k = 30, rows = 200;
    const HostArray similarities = coarse({queries, k}, 1, 0);
    HostArray indices(DType::int32, {queries, k});
    std::vector<std::int32_t> labels;
    Random random(3, RandomStream::test);
    for (std::int64_t i = 0; i < indices.size(); ++i) {
      indices.as<std::int32_t>()[i] = static_cast<std::int32_t>(random.below(201)) - 1;
    }
    for (std::int64_t i = 0; i < rows; ++i)
      labels.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint32_t>(classes))));
    const HostArray label_array = from_integers(labels);
    const std::vector<std::int32_t> ks{1, 2, 2, 10, 30};
    const HostArray got(DType::int32, {5, queries, kTopClasses}), expected(DType::int32, {5, queries, kTopClasses});
    KnnVote args{.similarities = similarities,
                 .indices = indices,
                 .labels = label_array,
                 .classes = classes,
                 .ks = ks,
                 .temperature = 0.5,
                 .predictions = got};
    knn_vote(args, stream);
    args.predictions = expected;
    reference::knn_vote(args);
    check_same_indices(got, expected);
  }
}

TEST_CASE("nearest_neighbors and knn_vote refuse arguments that disagree") {
  const auto stream = make_cpu_stream();
  const HostArray queries = random_normal(DType::float32, {2, 4}, 1);
  const HostArray bank = random_normal(DType::float32, {3, 4}, 2);
  const HostArray narrow = random_normal(DType::float32, {3, 5}, 2);
  const Neighbors three(2, 3), four(2, 4);
  const auto find = [&](const HostArray& rows, const Neighbors& n) {
    nearest_neighbors({.queries = queries, .bank = rows, .similarities = n.similarities, .indices = n.indices},
                      *stream);
  };
  CHECK_THROWS_AS(find(bank, four), Error);
  CHECK_THROWS_AS(find(narrow, three), Error);
  CHECK_NOTHROW(find(bank, three));
  const HostArray labels = from_integers({0, 1, 2});
  const HostArray predictions(DType::int32, {1, 2, kTopClasses});
  const auto vote = [&](std::int32_t k, double temperature) {
    knn_vote({.similarities = three.similarities,
              .indices = three.indices,
              .labels = labels,
              .classes = 3,
              .ks = {&k, 1},
              .temperature = temperature,
              .predictions = predictions},
             *stream);
  };
  CHECK_THROWS_AS(vote(4, 0.07), Error);
  CHECK_THROWS_AS(vote(0, 0.07), Error);
  CHECK_THROWS_AS(vote(3, 0), Error);
  CHECK_NOTHROW(vote(3, 0.07));
}
