#include "evaluate/feature_spread.h"

#include "tests/support/catch.h"
#include "tests/support/errors.h"

#include <cmath>
#include <numbers>
#include <random>

namespace dino {
namespace {

/// (n, width) rows as features.
FeatureTable table(std::int64_t width, std::vector<float> values) {
  FeatureTable features;
  features.width = width;
  features.labels.assign(values.size() / static_cast<std::size_t>(width), -1);
  features.values = std::move(values);
  return features;
}

/// Q diag(values) Qᵀ with Q a product of random reflections.
std::vector<double> with_eigenvalues(const std::vector<double>& values, std::uint32_t seed) {
  const std::size_t n = values.size();
  std::vector<double> matrix(n * n, 0.0), v(n);
  for (std::size_t i = 0; i < n; ++i) matrix[i * n + i] = values[i];
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  for (int k = 0; k < 5; ++k) {
    double square = 0;
    for (double& x : v) {
      x = normal(random);
      square += x * x;
    }
    for (const bool rows : {true, false}) {
      for (std::size_t i = 0; i < n; ++i) {
        double dot = 0;
        for (std::size_t j = 0; j < n; ++j) dot += v[j] * (rows ? matrix[i * n + j] : matrix[j * n + i]);
        for (std::size_t j = 0; j < n; ++j) (rows ? matrix[i * n + j] : matrix[j * n + i]) -= 2 * dot / square * v[j];
      }
    }
  }
  return matrix;
}

TEST_CASE("Eigenvalues of matrices that have known ones") {
  const std::vector<std::vector<double>> spectra = {
      {3}, {-1, 2}, {0, 0, 0}, {5, 5, 5, 5}, {-4, -1e-8, 0, 0, 1e-3, 1, 1, 1e3}, {1e-200, 1}};
  for (const auto& expected : spectra) {
    INFO(expected.size() << " values, the largest " << expected.back());
    const auto got = symmetric_eigenvalues(with_eigenvalues(expected, 3), static_cast<std::int64_t>(expected.size()));
    REQUIRE(got.size() == expected.size());
    const double scale = std::max(std::abs(expected.front()), std::abs(expected.back()));
    for (std::size_t i = 0; i < got.size(); ++i)
      CHECK(std::abs(got[i] - expected[i]) <= 1e-15 * static_cast<double>(8 * got.size()) * scale);
  }
  // The second difference: 2 - 2 cos(kπ / (n + 1)).
  constexpr std::int64_t kSize = 40;
  std::vector<double> matrix(kSize * kSize, 0.0);
  for (std::int64_t i = 0; i < kSize; ++i) {
    matrix[static_cast<std::size_t>(i * kSize + i)] = 2;
    if (i > 0) {
      matrix[static_cast<std::size_t>(i * kSize + i - 1)] = -1;
      matrix[static_cast<std::size_t>((i - 1) * kSize + i)] = -1;
    }
  }
  const auto got = symmetric_eigenvalues(matrix, kSize);
  for (std::int64_t k = 1; k <= kSize; ++k) {
    const double expected = 2 - 2 * std::cos(static_cast<double>(k) * std::numbers::pi / (kSize + 1));
    CHECK(std::abs(got[static_cast<std::size_t>(k - 1)] - expected) <= 1e-14);
  }
}

TEST_CASE("The spread of features that are all the same, all different, and in between") {
  // One row many times, at any length.
  const FeatureSpread same = feature_spread(table(3, {1, 2, 2, 1, 2, 2, 2, 4, 4, 0.5F, 1, 1}));
  CHECK(std::abs(same.rank - 1) <= 1e-6);
  CHECK(same.spread <= 1e-6);
  CHECK((same.images == 4 && same.width == 3));
  // The axes: more columns than rows, and more rows than columns.
  std::vector<float> axes(4 * 7, 0.0F), twice(8 * 4, 0.0F);
  for (std::size_t i = 0; i < 4; ++i) axes[i * 7 + i + 2] = 3;
  for (std::size_t i = 0; i < 8; ++i) twice[i * 4 + i % 4] = i < 4 ? 1.0F : -1.0F;
  const FeatureSpread orthogonal = feature_spread(table(7, axes));
  CHECK(std::abs(orthogonal.rank - 4) <= 1e-9);
  CHECK(std::abs(orthogonal.spread - std::sqrt(0.75)) <= 1e-9);
  const FeatureSpread opposite = feature_spread(table(4, twice));
  CHECK(std::abs(opposite.rank - 4) <= 1e-9);
  CHECK(std::abs(opposite.spread - 1) <= 1e-9);
  // Two orthogonal rows, one of them three times: singular values √3 and 1.
  const double p = std::sqrt(3.0) / (1 + std::sqrt(3.0));
  const FeatureSpread uneven = feature_spread(table(2, {1, 0, 1, 0, 1, 0, 0, 5}));
  CHECK(std::abs(uneven.rank - std::exp(-p * std::log(p) - (1 - p) * std::log(1 - p))) <= 1e-9);
  CHECK(std::abs(uneven.spread - std::sqrt(1 - (0.75 * 0.75 + 0.25 * 0.25))) <= 1e-9);
  CHECK_THROWS_AS(feature_spread(table(2, {})), Error);
}

TEST_CASE("Of many features, evenly chosen ones are looked at") {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(3 * kSpreadRows * 8));
  for (float& x : values) x = normal(random);
  const FeatureSpread many = feature_spread(table(8, values));
  CHECK(many.images == kSpreadRows);
  CHECK(many.rank > 7.9);  // all directions alike
  CHECK(many.rank <= 8 + 1e-9);
  CHECK(many.spread > 0.99);
  // The first third is all the same row: a third of what is looked at.
  for (std::size_t i = 0; i < values.size() / 3; ++i) values[i] = i % 8 == 0 ? 1.0F : 0.0F;
  const FeatureSpread fewer = feature_spread(table(8, values));
  CHECK(std::abs(fewer.spread - std::sqrt(1 - 1.0 / 9)) <= 0.02);
}

}  // namespace
}  // namespace dino
