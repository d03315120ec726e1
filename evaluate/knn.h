#pragma once

#include "engine/communicator.h"
#include "engine/context.h"

#include <cstdint>
#include <span>
#include <vector>

namespace dino {

/// Share of the test images, in percent, whose class the neighbours' votes put first and among the first five.
struct KnnAccuracy {
  int k = 0;     // as asked for
  int used = 0;  // neighbours that voted: k, or all training images where there are fewer
  double top1 = 0;
  double top5 = 0;  // among the first min(5, k), as the official script counts
};

struct KnnResult {
  std::vector<KnnAccuracy> accuracies;  // in the order of `ks`
  int classes = 0;                      // the largest label of both sets plus 1
};

/// Classifies each test image by the weighted votes of its k most similar training images, for several k at once.
/// Features are (M, C) and (Q, C) fp32 on the context's device with L2-normalised rows; labels start at 0, one per row.
/// The weight of a vote is exp(similarity / temperature). Throws Error where sizes disagree or a label is negative.
/// Source: arXiv 2104.14294 section 4.1; official eval_knn.py:146-189.
KnnResult evaluate_knn(Context& context, const Tensor& train_features, std::span<const std::int32_t> train_labels,
                       const Tensor& test_features, std::span<const std::int32_t> test_labels, std::span<const int> ks,
                       double temperature);

/// The same by several ranks, which all have all features: each classifies a part of the test images.
KnnResult evaluate_knn(Context& context, Communicator& communicator, const Tensor& train_features,
                       std::span<const std::int32_t> train_labels, const Tensor& test_features,
                       std::span<const std::int32_t> test_labels, std::span<const int> ks, double temperature);

}  // namespace dino
