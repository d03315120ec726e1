#include "visualize/patch_pca.h"

#include "engine/random.h"
#include "kernels/cast/cast.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace dino {
namespace {

constexpr const char* kWhere = "pca";
constexpr int kExtraVectors = 8;  // the more beyond those that are wanted, the faster the wanted ones settle
constexpr int kMaxIterations = 2000;
constexpr double kTolerance = 1e-10;

using Matrix = std::vector<double>;  // row-major

/// Makes the rows of (n, C) orthonormal (modified Gram-Schmidt, twice for accuracy).
void orthonormalize(Matrix& rows, std::size_t n, std::size_t width) {
  for (int pass = 0; pass < 2; ++pass) {
    for (std::size_t i = 0; i < n; ++i) {
      double* a = rows.data() + i * width;
      for (std::size_t j = 0; j < i; ++j) {
        const double* b = rows.data() + j * width;
        double product = 0;
        for (std::size_t c = 0; c < width; ++c) product += a[c] * b[c];
        for (std::size_t c = 0; c < width; ++c) a[c] -= product * b[c];
      }
      double square = 0;
      for (std::size_t c = 0; c < width; ++c) square += a[c] * a[c];
      // A direction that has vanished stays zero.
      const double scale = square > 1e-300 ? 1 / std::sqrt(square) : 0;
      for (std::size_t c = 0; c < width; ++c) a[c] *= scale;
    }
  }
}

/// Eigenvectors of a small symmetric matrix (n, n) as rows, by Jacobi's rotations; the diagonal becomes the
/// eigenvalues.
Matrix diagonalize(Matrix& a, std::size_t n) {
  Matrix vectors(n * n, 0.0);
  for (std::size_t i = 0; i < n; ++i) vectors[i * n + i] = 1;
  for (int sweep = 0; sweep < 60; ++sweep) {
    double off = 0, on = 0;
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < n; ++j) (i == j ? on : off) += a[i * n + j] * a[i * n + j];
    }
    if (off <= 1e-30 * on) break;
    for (std::size_t p = 0; p < n; ++p) {
      for (std::size_t q = p + 1; q < n; ++q) {
        if (a[p * n + q] == 0) continue;
        const double theta = (a[q * n + q] - a[p * n + p]) / (2 * a[p * n + q]);
        const double t = (theta >= 0 ? 1 : -1) / (std::abs(theta) + std::sqrt(theta * theta + 1));
        const double cosine = 1 / std::sqrt(t * t + 1), sine = t * cosine;
        for (std::size_t k = 0; k < n; ++k) {
          const double x = a[k * n + p], y = a[k * n + q];
          a[k * n + p] = cosine * x - sine * y;
          a[k * n + q] = sine * x + cosine * y;
        }
        for (std::size_t k = 0; k < n; ++k) {
          const double x = a[p * n + k], y = a[q * n + k];
          a[p * n + k] = cosine * x - sine * y;
          a[q * n + k] = sine * x + cosine * y;
          const double u = vectors[p * n + k], v = vectors[q * n + k];
          vectors[p * n + k] = cosine * u - sine * v;
          vectors[q * n + k] = sine * u + cosine * v;
        }
      }
    }
  }
  return vectors;
}

Matrix covariance_of(std::span<const float> rows, std::size_t width, const std::vector<double>& mean) {
  const std::size_t n = rows.size() / width;
  Matrix covariance(width * width, 0.0);
  std::vector<double> centered(width);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t c = 0; c < width; ++c) centered[c] = static_cast<double>(rows[i * width + c]) - mean[c];
    for (std::size_t a = 0; a < width; ++a) {
      for (std::size_t b = a; b < width; ++b) covariance[a * width + b] += centered[a] * centered[b];
    }
  }
  for (std::size_t a = 0; a < width; ++a) {
    for (std::size_t b = a; b < width; ++b)
      covariance[b * width + a] = covariance[a * width + b] /= static_cast<double>(n);
  }
  return covariance;
}

/// rows · matrix, with a symmetric matrix (C, C).
Matrix times(const Matrix& rows, std::size_t n, const Matrix& matrix, std::size_t width) {
  Matrix product(n * width, 0.0);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t k = 0; k < width; ++k) {
      const double factor = rows[i * width + k];
      for (std::size_t c = 0; c < width; ++c) product[i * width + c] += factor * matrix[k * width + c];
    }
  }
  return product;
}

struct Range {
  double low, high;
};

/// The 2nd and the 98th percentile: a few outliers shall not make everything else one colour.
Range percentiles(std::vector<double> values) {
  const auto at = [&](double share) {
    const auto place = static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1));
    std::nth_element(values.begin(), values.begin() + place, values.end());
    return values[static_cast<std::size_t>(place)];
  };
  const double low = at(0.02);
  return {low, at(0.98)};
}

bool on_border(const PatchTokens& picture, std::size_t patch) {
  const auto columns = static_cast<std::size_t>(picture.columns);
  const std::size_t row = patch / columns, column = patch % columns;
  return row == 0 || column == 0 || row + 1 == static_cast<std::size_t>(picture.rows) || column + 1 == columns;
}

}  // namespace

double PrincipalAxes::coordinate(const float* row, int axis) const {
  double sum = 0;
  for (std::int64_t c = 0; c < width; ++c)
    sum += (static_cast<double>(row[c]) - mean[static_cast<std::size_t>(c)]) *
           axes[static_cast<std::size_t>(axis * width + c)];
  return sum;
}

PrincipalAxes principal_axes(std::span<const float> rows, std::int64_t width, int count) {
  const auto c_count = static_cast<std::size_t>(width);
  require(width >= 1 && rows.size() % c_count == 0 && rows.size() / c_count >= 2, kWhere,
          "got {} numbers for rows of {}, expected two rows or more", rows.size(), width);
  require(count >= 1 && count <= width, kWhere, "got {} axes for a width of {}", count, width);
  for (const float value : rows) require(std::isfinite(value), kWhere, "a value is not finite: {}", value);
  const std::size_t n = rows.size() / c_count;

  PrincipalAxes result;
  result.width = width;
  result.mean.assign(c_count, 0.0);
  for (std::size_t i = 0; i < rows.size(); ++i) result.mean[i % c_count] += static_cast<double>(rows[i]);
  for (double& value : result.mean) value /= static_cast<double>(n);
  const Matrix covariance = covariance_of(rows, c_count, result.mean);
  for (std::size_t c = 0; c < c_count; ++c) result.total_variance += covariance[c * c_count + c];

  const auto wanted = static_cast<std::size_t>(count);
  const std::size_t vectors = std::min(c_count, wanted + kExtraVectors);
  Matrix basis(vectors * c_count);
  Random random(0, RandomStream::weights);
  for (double& value : basis) value = random.normal();
  orthonormalize(basis, vectors, c_count);
  std::vector<double> values(vectors, 0.0);
  for (int iteration = 0; iteration < kMaxIterations; ++iteration) {
    Matrix image = times(basis, vectors, covariance, c_count);
    // Rayleigh-Ritz: the best combinations of the basis.
    Matrix small(vectors * vectors, 0.0);
    for (std::size_t i = 0; i < vectors; ++i) {
      for (std::size_t j = 0; j < vectors; ++j) {
        for (std::size_t c = 0; c < c_count; ++c)
          small[i * vectors + j] += image[i * c_count + c] * basis[j * c_count + c];
      }
    }
    const Matrix turns = diagonalize(small, vectors);
    std::vector<std::size_t> order(vectors);
    for (std::size_t i = 0; i < vectors; ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return small[a * vectors + a] > small[b * vectors + b]; });
    Matrix ritz(vectors * c_count, 0.0), ritz_image(vectors * c_count, 0.0);
    for (std::size_t i = 0; i < vectors; ++i) {
      values[i] = small[order[i] * vectors + order[i]];
      for (std::size_t j = 0; j < vectors; ++j) {
        const double factor = turns[order[i] * vectors + j];
        for (std::size_t c = 0; c < c_count; ++c) {
          ritz[i * c_count + c] += factor * basis[j * c_count + c];
          ritz_image[i * c_count + c] += factor * image[j * c_count + c];
        }
      }
    }
    double residual = 0;
    for (std::size_t i = 0; i < wanted; ++i) {
      double square = 0;
      for (std::size_t c = 0; c < c_count; ++c) {
        const double rest = ritz_image[i * c_count + c] - values[i] * ritz[i * c_count + c];
        square += rest * rest;
      }
      residual = std::max(residual, std::sqrt(square));
    }
    basis = ritz;
    if (residual <= kTolerance * values[0]) break;
    basis = std::move(ritz_image);
    orthonormalize(basis, vectors, c_count);
  }
  require(values[wanted - 1] > 1e-12 * result.total_variance && result.total_variance > 0, kWhere,
          "the rows vary in fewer than {} directions", count);

  basis.resize(wanted * c_count);
  for (std::size_t i = 0; i < wanted; ++i) {
    double* axis = basis.data() + i * c_count;
    const double* largest =
        std::max_element(axis, axis + c_count, [](double a, double b) { return std::abs(a) < std::abs(b); });
    const double sign = *largest < 0 ? -1 : 1;
    for (std::size_t c = 0; c < c_count; ++c) axis[c] *= sign;
  }
  result.axes = std::move(basis);
  result.variances.assign(values.begin(), values.begin() + count);
  return result;
}

PatchTokens patch_tokens(const Vit& vit, Weights& weights, const Image& prepared) {
  Context& context = weights.tape().context();
  CropPacker packer(context, vit.config().patch_px);
  const PackedCrops crops =
      packer.pack({{context.from_host(prepared.array().reshaped({1, prepared.height, prepared.width, 3}))}});
  Tensor tokens = vit.last_tokens(weights.tape(), weights, crops).front();
  if (tokens.dtype() != DType::float32) {
    const Tensor fp32 = context.empty(tokens.shape(), DType::float32);
    cast({.x = tokens.array(), .y = fp32.array()}, context.stream());
    tokens = fp32;
  }
  std::vector<float> all(static_cast<std::size_t>(tokens.size()));
  context.copy_to_host(tokens, Array(all.data(), tokens.shape()));
  PatchTokens result;
  result.rows = crops.plan->groups[0].rows;
  result.columns = crops.plan->groups[0].columns;
  result.values.assign(all.begin() + vit.config().embed_dim, all.end());  // without CLS
  return result;
}

double otsu_threshold(std::span<const double> values) {
  require(!values.empty(), kWhere, "there is nothing to split");
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  constexpr int kBins = 256;
  const double width = (*high - *low) / kBins;
  if (width == 0) return *low;
  std::array<double, kBins> count{}, sum{};
  double total = 0;
  for (const double value : values) {
    const auto bin = static_cast<std::size_t>(std::min(kBins - 1, static_cast<int>((value - *low) / width)));
    ++count[bin];
    sum[bin] += value;
    total += value;
  }
  const auto n = static_cast<double>(values.size());
  double below = 0, sum_below = 0, best = -1, threshold = *low;
  for (int bin = 0; bin + 1 < kBins; ++bin) {
    below += count[static_cast<std::size_t>(bin)];
    sum_below += sum[static_cast<std::size_t>(bin)];
    if (below == 0 || below == n) continue;
    const double gap = sum_below / below - (total - sum_below) / (n - below);
    const double between = below * (n - below) * gap * gap;
    if (between <= best) continue;
    best = between;
    threshold = *low + width * (bin + 1);
  }
  return threshold;
}

PatchColors color_patches(const std::vector<PatchTokens>& pictures, bool separate_foreground) {
  require(!pictures.empty(), kWhere, "there are no pictures");
  std::vector<float> all;
  std::size_t patches = 0;
  for (const PatchTokens& picture : pictures) {
    patches += static_cast<std::size_t>(picture.rows) * static_cast<std::size_t>(picture.columns);
    all.insert(all.end(), picture.values.begin(), picture.values.end());
  }
  require(patches > 0 && all.size() % patches == 0, kWhere, "got {} numbers for {} patches", all.size(), patches);
  require(patches > 1, kWhere, "the pictures have one patch in all; expected two or more; try a larger --image-size");
  const std::size_t width = all.size() / patches;

  std::vector<char> front(patches, 1);
  if (separate_foreground) {
    const PrincipalAxes first = principal_axes(all, static_cast<std::int64_t>(width), 1);
    std::vector<double> values(patches);
    for (std::size_t i = 0; i < patches; ++i) values[i] = first.coordinate(all.data() + i * width, 0);
    const double threshold = otsu_threshold(values);
    std::size_t border = 0, above_on_border = 0, above = 0, i = 0;
    for (const PatchTokens& picture : pictures) {
      const auto here = static_cast<std::size_t>(picture.rows) * static_cast<std::size_t>(picture.columns);
      for (std::size_t patch = 0; patch < here; ++patch, ++i) {
        above += values[i] > threshold;
        if (!on_border(picture, patch)) continue;
        ++border;
        above_on_border += values[i] > threshold;
      }
    }
    // Objects stand in the middle: the side that is rarer on the border than elsewhere is the foreground.
    const bool above_is_front = above_on_border * patches <= above * border;
    for (i = 0; i < patches; ++i) front[i] = (values[i] > threshold) == above_is_front;
  }

  std::vector<float> kept;
  for (std::size_t i = 0; i < patches; ++i) {
    if (front[i])
      kept.insert(kept.end(), all.begin() + static_cast<std::ptrdiff_t>(i * width),
                  all.begin() + static_cast<std::ptrdiff_t>((i + 1) * width));
  }
  const PrincipalAxes axes = principal_axes(kept, static_cast<std::int64_t>(width), 3);
  std::vector<std::array<double, 3>> coordinates(patches);
  std::array<Range, 3> ranges{};
  for (int axis = 0; axis < 3; ++axis) {
    std::vector<double> in_front;
    for (std::size_t i = 0; i < patches; ++i) {
      const double value = axes.coordinate(all.data() + i * width, axis);
      coordinates[i][static_cast<std::size_t>(axis)] = value;
      if (front[i]) in_front.push_back(value);
    }
    ranges[static_cast<std::size_t>(axis)] = percentiles(std::move(in_front));
  }

  PatchColors result;
  for (const double variance : axes.variances) result.explained.push_back(variance / axes.total_variance);
  std::size_t i = 0;
  for (const PatchTokens& picture : pictures) {
    auto& colors = result.colors.emplace_back();
    auto& foreground = result.foreground.emplace_back();
    const auto here = static_cast<std::size_t>(picture.rows) * static_cast<std::size_t>(picture.columns);
    for (std::size_t patch = 0; patch < here; ++patch, ++i) {
      Rgb color{};
      for (std::size_t c = 0; front[i] && c < 3; ++c) {
        const double span = std::max(ranges[c].high - ranges[c].low, 1e-300);
        color[c] = static_cast<std::uint8_t>(
            std::lround(255 * std::clamp((coordinates[i][c] - ranges[c].low) / span, 0.0, 1.0)));
      }
      colors.push_back(color);
      foreground.push_back(front[i] ? 1.0F : 0.0F);
    }
  }
  return result;
}

}  // namespace dino
