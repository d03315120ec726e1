#include "evaluate/knn.h"

#include "engine/communicators/threads.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/every_context.h"
#include "tests/support/host_array.h"
#include "tests/support/paths.h"

#include <cmath>
#include <string>
#include <thread>

using namespace dino;
using namespace dino::test;

namespace {

std::vector<std::int32_t> labels_of(const ConstArray& array) {
  std::vector<std::int32_t> labels;
  for (std::int64_t i = 0; i < array.size(); ++i)
    labels.push_back(static_cast<std::int32_t>(array.as<std::int64_t>()[i]));
  return labels;
}

}  // namespace

static void check_golden(Context& context);
TEST_CASE("golden: k-NN accuracies are the official script's", "[device]") { every_context(check_golden); }
static void check_golden(Context& context) {
  const SafetensorsFile file = SafetensorsFile::read(golden_dir() / "knn.safetensors");
  const ConstArray expected = file["expected_k_top1_top5"];
  REQUIRE(expected.extent(0) >= 1);
  std::vector<int> ks;
  for (std::int64_t row = 0; row < expected.extent(0); ++row)
    ks.push_back(static_cast<int>(load_double(expected, row * 3)));
  const KnnResult result = evaluate_knn(context, context.from_host(file["train_features"]),
                                        labels_of(file["train_labels"]), context.from_host(file["test_features"]),
                                        labels_of(file["test_labels"]), ks, std::stod(file.metadata("temperature")));
  CHECK(result.classes == std::stoi(file.metadata("classes")));
  REQUIRE(result.accuracies.size() == ks.size());
  for (std::int64_t row = 0; row < expected.extent(0); ++row) {
    const KnnAccuracy& got = result.accuracies[static_cast<std::size_t>(row)];
    INFO("k " << got.k << ": top-1 " << got.top1 << ", top-5 " << got.top5);
    // Percentages of whole numbers: exact up to how the recording rounds its division.
    CHECK(std::abs(got.top1 - load_double(expected, row * 3 + 1)) <= 1e-9);
    CHECK(std::abs(got.top5 - load_double(expected, row * 3 + 2)) <= 1e-9);
  }
}

static void check_ks(Context& context);
TEST_CASE("k-NN takes ks in any order and all training images where there are fewer than k", "[device]") {
  every_context(check_ks);
}
static void check_ks(Context& context) {
  // Three classes on the axes; the query at 45° is nearest to both of its axes' images, and class 0 wins by number.
  const Tensor train = context.from_host(from_values(DType::float32, {4, 2}, {1, 0, 1, 0, 0, 1, -1, 0}));
  const Tensor test = context.from_host(from_values(DType::float32, {2, 2}, {0, 1, 0.70710678, 0.70710678}));
  const std::vector<std::int32_t> train_labels{0, 0, 2, 1};
  const std::vector<int> ks{100, 1, 3, 100};
  const KnnResult result = evaluate_knn(context, train, train_labels, test, std::vector<std::int32_t>{2, 0}, ks, 0.07);
  CHECK(result.classes == 3);
  REQUIRE(result.accuracies.size() == 4);
  const int used[] = {4, 1, 3, 4};
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(result.accuracies[i].k == ks[i]);
    CHECK(result.accuracies[i].used == used[i]);
    CHECK(result.accuracies[i].top1 == 100.0);
    CHECK(result.accuracies[i].top5 == 100.0);
  }
  // A label that no training image has is a class, and a miss.
  const KnnResult miss =
      evaluate_knn(context, train, train_labels, test, std::vector<std::int32_t>{7, 2}, std::vector<int>{1, 4}, 0.07);
  CHECK(miss.classes == 8);
  CHECK(miss.accuracies[0].top1 == 0.0);
  CHECK(miss.accuracies[0].top5 == 0.0);
  CHECK(miss.accuracies[1].top1 == 0.0);
  CHECK(miss.accuracies[1].top5 == 50.0);
}

TEST_CASE("k-NN refuses what does not fit") {
  const auto context = make_cpu_context();
  const Tensor train = context->from_host(from_values(DType::float32, {2, 2}, {1, 0, 0, 1}));
  const Tensor wide = context->from_host(from_values(DType::float32, {1, 3}, {1, 0, 0}));
  using Labels = std::vector<std::int32_t>;
  const auto evaluate = [&](const Tensor& test, const Labels& train_labels, const Labels& test_labels,
                            const std::vector<int>& ks) {
    evaluate_knn(*context, train, train_labels, test, test_labels, ks, 0.07);
  };
  CHECK_THROWS_AS(evaluate(wide, {0, 1}, {0}, {1}), Error);
  CHECK_THROWS_AS(evaluate(train, {0, 1, 2}, {0, 1}, {1}), Error);
  CHECK_THROWS_AS(evaluate(train, {0, -1}, {0, 1}, {1}), Error);
  CHECK_THROWS_AS(evaluate(train, {0, 1}, {0, 1}, {0}), Error);
  CHECK_THROWS_AS(evaluate(train, {0, 1}, {0, 1}, {}), Error);
  CHECK_NOTHROW(evaluate(train, {0, 1}, {0, 1}, {1}));
}

TEST_CASE("Ranks that share the test images find the accuracies of one") {
  const HostArray bank = random_normal(DType::float32, {40, 6}, 1), queries = random_normal(DType::float32, {23, 6}, 2);
  std::vector<std::int32_t> bank_labels, query_labels;
  for (int i = 0; i < 40; ++i) bank_labels.push_back(i % 5);
  for (int i = 0; i < 23; ++i) query_labels.push_back(i % 5);
  const std::vector<int> ks{1, 3, 10};
  const auto context = make_cpu_context();
  const KnnResult expected = evaluate_knn(*context, context->from_host(bank), bank_labels, context->from_host(queries),
                                          query_labels, ks, 0.07);
  REQUIRE(expected.accuracies[1].top1 > 0);
  for (const int ranks : {2, 3, 30}) {
    ThreadGroup group(ranks, 60);
    std::vector<KnnResult> results(static_cast<std::size_t>(ranks));
    std::vector<std::thread> threads;
    for (int rank = 0; rank < ranks; ++rank) {
      threads.emplace_back([&, rank] {
        ThreadCommunicator communicator(group, rank);
        const auto own = make_cpu_context();
        results[static_cast<std::size_t>(rank)] = evaluate_knn(*own, communicator, own->from_host(bank), bank_labels,
                                                               own->from_host(queries), query_labels, ks, 0.07);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const KnnResult& result : results) {
      CHECK(result.classes == expected.classes);
      for (std::size_t i = 0; i < ks.size(); ++i) {
        CHECK(result.accuracies[i].top1 == expected.accuracies[i].top1);
        CHECK(result.accuracies[i].top5 == expected.accuracies[i].top5);
      }
    }
  }
}
