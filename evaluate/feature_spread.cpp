#include "evaluate/feature_spread.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

namespace dino {
namespace {

struct Tridiagonal {
  std::vector<double> diagonal;  // (n)
  std::vector<double> square;    // (n): [i] is the square of the element beside the diagonal in rows i - 1 and i
};

/// A ← H A H for reflections H that clear one column after the other below the first subdiagonal.
Tridiagonal tridiagonal(std::vector<double> matrix, std::int64_t n) {
  const auto at = [&](std::int64_t i, std::int64_t j) -> double& {
    return matrix[static_cast<std::size_t>(i * n + j)];
  };
  std::vector<double> v(static_cast<std::size_t>(n)), w(v.size());
  Tridiagonal result{std::vector<double>(v.size()), std::vector<double>(v.size(), 0.0)};
  for (std::int64_t k = 0; k + 1 < n; ++k) {
    double square = 0;
    for (std::int64_t i = k + 1; i < n; ++i) square += at(i, k) * at(i, k);
    result.square[static_cast<std::size_t>(k) + 1] = square;
    const double length = std::copysign(std::sqrt(square), at(k + 1, k));
    if (length == 0) continue;
    // H = 1 - v vᵀ / half with v = column + length · e turns the column into -length · e.
    const double half = length * (length + at(k + 1, k));  // vᵀ v / 2
    for (std::int64_t i = k + 1; i < n; ++i) v[static_cast<std::size_t>(i)] = at(i, k) + (i == k + 1 ? length : 0);
    double overlap = 0;
    for (std::int64_t i = k + 1; i < n; ++i) {
      double sum = 0;
      for (std::int64_t j = k + 1; j < n; ++j) sum += at(i, j) * v[static_cast<std::size_t>(j)];
      w[static_cast<std::size_t>(i)] = sum / half;
      overlap += v[static_cast<std::size_t>(i)] * w[static_cast<std::size_t>(i)];
    }
    for (std::int64_t i = k + 1; i < n; ++i)
      w[static_cast<std::size_t>(i)] -= overlap / (2 * half) * v[static_cast<std::size_t>(i)];
    for (std::int64_t i = k + 1; i < n; ++i) {
      const double vi = v[static_cast<std::size_t>(i)], wi = w[static_cast<std::size_t>(i)];
      for (std::int64_t j = k + 1; j < n; ++j)
        at(i, j) -= vi * w[static_cast<std::size_t>(j)] + wi * v[static_cast<std::size_t>(j)];
    }
  }
  for (std::int64_t i = 0; i < n; ++i) result.diagonal[static_cast<std::size_t>(i)] = at(i, i);
  return result;
}

/// How many eigenvalues are below x: negative pivots of the factorisation of T - x.
std::int64_t count_below(const Tridiagonal& t, double x, double smallest) {
  std::int64_t count = 0;
  double pivot = 1;
  for (std::size_t i = 0; i < t.diagonal.size(); ++i) {
    pivot = t.diagonal[i] - x - t.square[i] / pivot;
    if (std::abs(pivot) < smallest) pivot = -smallest;
    count += pivot < 0;
  }
  return count;
}

}  // namespace

std::string describe(const FeatureSpread& spread) {
  return fmt::format("features of rank {:.1f} in {} dimensions, spread {:.2f}", spread.rank, spread.width,
                     spread.spread);
}

std::vector<double> symmetric_eigenvalues(std::vector<double> matrix, std::int64_t n) {
  const Tridiagonal t = tridiagonal(std::move(matrix), n);
  // Gershgorin's circles hold all of them.
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (std::size_t i = 0; i < t.diagonal.size(); ++i) {
    const double radius = std::sqrt(t.square[i]) + (i + 1 < t.square.size() ? std::sqrt(t.square[i + 1]) : 0);
    low = std::min(low, t.diagonal[i] - radius);
    high = std::max(high, t.diagonal[i] + radius);
  }
  const double scale = std::max({std::abs(low), std::abs(high), std::numeric_limits<double>::min() * 1e30});
  const double smallest = scale * 1e-30;
  std::vector<double> values(t.diagonal.size());
  for (std::size_t k = 0; k < values.size(); ++k) {
    double below = k == 0 ? low : values[k - 1], above = high;
    while (above - below > 1e-16 * scale) {
      const double middle = below + (above - below) / 2;
      if (middle <= below || middle >= above) break;
      (count_below(t, middle, smallest) > static_cast<std::int64_t>(k) ? above : below) = middle;
    }
    values[k] = below + (above - below) / 2;
  }
  return values;
}

FeatureSpread feature_spread(const FeatureTable& features) {
  const std::int64_t all = features.rows(), width = features.width;
  require(all > 0, "features", "there are no features to look at");
  const std::int64_t n = std::min(all, kSpreadRows);
  std::vector<double> rows(static_cast<std::size_t>(n * width)), mean(static_cast<std::size_t>(width), 0.0);
  for (std::int64_t i = 0; i < n; ++i) {
    const float* from = features.values.data() + i * all / n * width;
    double* row = rows.data() + i * width;
    double square = 0;
    for (std::int64_t c = 0; c < width; ++c) square += static_cast<double>(from[c]) * from[c];
    for (std::int64_t c = 0; c < width; ++c) {
      row[c] = from[c] / std::max(std::sqrt(square), 1e-30);
      mean[static_cast<std::size_t>(c)] += row[c] / static_cast<double>(n);
    }
  }
  // The singular values are the roots of the eigenvalues of rows · rowsᵀ, or of rowsᵀ · rows, whichever is smaller.
  const std::int64_t side = std::min(n, width), depth = std::max(n, width);
  const bool by_rows = n <= width;
  std::vector<double> products(static_cast<std::size_t>(side * side), 0.0);
  if (by_rows) {
    for (std::int64_t i = 0; i < side; ++i) {
      for (std::int64_t j = 0; j <= i; ++j) {
        double sum = 0;
        for (std::int64_t c = 0; c < depth; ++c)
          sum += rows[static_cast<std::size_t>(i * width + c)] * rows[static_cast<std::size_t>(j * width + c)];
        products[static_cast<std::size_t>(i * side + j)] = products[static_cast<std::size_t>(j * side + i)] = sum;
      }
    }
  } else {
    for (std::int64_t r = 0; r < depth; ++r) {
      const double* row = rows.data() + r * width;
      for (std::int64_t i = 0; i < side; ++i) {
        for (std::int64_t j = 0; j < side; ++j) products[static_cast<std::size_t>(i * side + j)] += row[i] * row[j];
      }
    }
  }
  std::vector<double> singular = symmetric_eigenvalues(std::move(products), side);
  double sum = 0;
  for (double& value : singular) {
    value = std::sqrt(std::max(value, 0.0));
    sum += value;
  }
  double entropy = 0;
  for (const double value : singular) {
    if (value > 0) entropy -= value / sum * std::log(value / sum);
  }
  double mean_square = 0;
  for (const double x : mean) mean_square += x * x;
  return {.rank = std::exp(entropy), .spread = std::sqrt(std::max(0.0, 1 - mean_square)), .images = n, .width = width};
}

nlohmann::ordered_json to_json(const FeatureSpread& teacher, const FeatureSpread& student) {
  const auto one = [](const FeatureSpread& s) {
    return nlohmann::ordered_json{{"rank", s.rank}, {"spread", s.spread}};
  };
  return {{"images", teacher.images}, {"width", teacher.width}, {"teacher", one(teacher)}, {"student", one(student)}};
}

}  // namespace dino
