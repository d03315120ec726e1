#pragma once

#include "data/image.h"
#include "models/vit.h"
#include "visualize/colormap.h"

#include <cstdint>
#include <span>
#include <vector>

namespace dino {

/// The directions of largest variance of a set of rows.
struct PrincipalAxes {
  std::int64_t width = 0;         // C
  std::vector<double> mean;       // (C)
  std::vector<double> axes;       // (n, C), orthonormal; the coefficient of largest size is positive
  std::vector<double> variances;  // (n), largest first
  double total_variance = 0;      // of all C directions

  int count() const { return static_cast<int>(variances.size()); }
  /// Coordinate of a row (C) on an axis.
  double coordinate(const float* row, int axis) const;
};

/// The first `count` principal axes of (n, C) rows, in double: orthogonal iteration with Rayleigh-Ritz (Golub and Van
/// Loan, Matrix Computations, section 8.2). Variances are over n. Throws Error for fewer rows than two, values that are
/// not finite, or rows that span fewer than `count` directions.
PrincipalAxes principal_axes(std::span<const float> rows, std::int64_t width, int count);

/// The patch tokens of one picture.
struct PatchTokens {
  int rows = 0, columns = 0;
  std::vector<float> values;  // (rows·columns, C)
};

/// Patch tokens of a prepared picture after the final norm.
PatchTokens patch_tokens(const Vit& vit, Weights& weights, const Image& prepared);

struct PatchColors {
  std::vector<std::vector<Rgb>> colors;        // for each picture, one for each patch; black in the background
  std::vector<std::vector<float>> foreground;  // 1 where the patch is in the foreground
  std::vector<double> explained;               // shares of the variance that red, green and blue stand for
};

/// Colours for the patches of several pictures from one basis, so that like colours mean like tokens across them: three
/// principal components become red, green and blue, each stretched from its 2nd to its 98th percentile.
///
/// With `separate_foreground` the first component of all patches splits them in two (Otsu's threshold); the side that
/// is rarer on the pictures' borders is the foreground, and the colours are those of a second analysis of it alone.
/// Source: the idea is that of Oquab et al., arXiv 2304.07193, figure 1.
PatchColors color_patches(const std::vector<PatchTokens>& pictures, bool separate_foreground);

/// The threshold that splits values with the largest variance between the two sides (Otsu 1979), over 256 bins.
double otsu_threshold(std::span<const double> values);

}  // namespace dino
