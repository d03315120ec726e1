#pragma once

#include "evaluate/features.h"
#include "train/health.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace dino {

/// Most rows that feature_spread() looks at.
inline constexpr std::int64_t kSpreadRows = 512;

/// How the features of pictures lie, from at most kSpreadRows of the rows, evenly chosen; rows are brought to length 1
/// first. The rank is exp(-Σ p ln p), p the singular values of the (n, C) matrix of rows divided by their sum. The mean
/// is left in: where all pictures have one feature and some noise, it is near 1. In double. Throws Error where there is
/// no row. Source: Roy and Vetterli, The effective rank, EUSIPCO 2007; Garrido et al., arXiv 2210.02885, section 3.
FeatureSpread feature_spread(const FeatureTable& features);

/// `features` of a line in knn.jsonl.
nlohmann::ordered_json to_json(const FeatureSpread& teacher, const FeatureSpread& student);

/// `features of rank 12.3 in 192 dimensions, spread 0.45`
std::string describe(const FeatureSpread& spread);

/// Eigenvalues of a symmetric n × n matrix, ascending: Householder's reduction to a tridiagonal matrix, then bisection
/// with Sturm's counts (Golub and Van Loan, Matrix Computations, sections 8.3 and 8.4), to about n · 1e-16 of the
/// largest.
std::vector<double> symmetric_eigenvalues(std::vector<double> matrix, std::int64_t n);

}  // namespace dino
