#include "evaluate/knn.h"

#include "kernels/common/parallel.h"
#include "kernels/knn/knn.h"

#include <algorithm>

namespace dino {
namespace {

constexpr const char* kWhere = "knn";

/// Queries classified at a time: bounds the memory for neighbours, whatever the size of the test set.
constexpr std::int64_t kQueriesAtATime = 4096;

void check_features(const Tensor& features, std::span<const std::int32_t> labels, const char* name) {
  require(features.shape().rank() == 2 && features.extent(0) >= 1 && features.dtype() == DType::float32, kWhere,
          "{} features must be (images, C) float32 with at least one image; got {} {}", name,
          features.shape().to_string(), name_of(features.dtype()));
  require(static_cast<std::int64_t>(labels.size()) == features.extent(0), kWhere,
          "{} {} labels were given for {} images", labels.size(), name, features.extent(0));
  for (const std::int32_t label : labels) require(label >= 0, kWhere, "a {} label is negative: {}", name, label);
}

}  // namespace

KnnResult evaluate_knn(Context& context, const Tensor& train_features, std::span<const std::int32_t> train_labels,
                       const Tensor& test_features, std::span<const std::int32_t> test_labels, std::span<const int> ks,
                       double temperature) {
  SingleProcess alone;
  return evaluate_knn(context, alone, train_features, train_labels, test_features, test_labels, ks, temperature);
}

KnnResult evaluate_knn(Context& context, Communicator& communicator, const Tensor& train_features,
                       std::span<const std::int32_t> train_labels, const Tensor& test_features,
                       std::span<const std::int32_t> test_labels, std::span<const int> ks, double temperature) {
  check_features(train_features, train_labels, "training");
  check_features(test_features, test_labels, "test");
  require(train_features.extent(1) == test_features.extent(1), kWhere,
          "training and test features differ in width; got {} and {}", train_features.extent(1),
          test_features.extent(1));
  require(!ks.empty(), kWhere, "no number of neighbours was given");

  KnnResult result;
  result.classes = 1 + std::max(*std::max_element(train_labels.begin(), train_labels.end()),
                                *std::max_element(test_labels.begin(), test_labels.end()));
  std::vector<std::int32_t> used;
  for (const int k : ks) {
    require(k >= 1, kWhere, "the number of neighbours must be at least 1; got {}", k);
    const auto clamped = static_cast<int>(std::min<std::int64_t>(k, train_features.extent(0)));
    result.accuracies.push_back({.k = k, .used = clamped});
    used.push_back(clamped);
  }
  std::sort(used.begin(), used.end());
  used.erase(std::unique(used.begin(), used.end()), used.end());
  const auto used_count = static_cast<std::int64_t>(used.size());

  const Tensor labels = context.from_host(ConstArray(train_labels.data(), Shape{train_features.extent(0)}));
  const std::int64_t queries = test_features.extent(0);
  std::vector<std::int64_t> hits1(result.accuracies.size(), 0), hits5(result.accuracies.size(), 0);
  const auto [first, last] = thread_range(queries, communicator.rank(), communicator.size());
  for (std::int64_t begin = first; begin < last; begin += kQueriesAtATime) {
    const std::int64_t count = std::min(kQueriesAtATime, last - begin);
    const Tensor similarities = context.empty({count, used.back()}, DType::float32);
    const Tensor indices = context.empty({count, used.back()}, DType::int32);
    const Tensor predictions = context.empty({used_count, count, kTopClasses}, DType::int32);
    nearest_neighbors({.queries = test_features.rows(begin, begin + count).array(),
                       .bank = train_features.array(),
                       .similarities = similarities.array(),
                       .indices = indices.array()},
                      context.stream());
    knn_vote({.similarities = similarities.array(),
              .indices = indices.array(),
              .labels = labels.array(),
              .classes = result.classes,
              .ks = used,
              .temperature = temperature,
              .predictions = predictions.array()},
             context.stream());
    std::vector<std::int32_t> host(static_cast<std::size_t>(predictions.size()));
    context.copy_to_host(predictions, Array(host.data(), predictions.shape()));

    for (std::size_t a = 0; a < result.accuracies.size(); ++a) {
      const KnnAccuracy& accuracy = result.accuracies[a];
      const std::int64_t j = std::lower_bound(used.begin(), used.end(), accuracy.used) - used.begin();
      for (std::int64_t q = 0; q < count; ++q) {
        const std::int32_t* top = host.data() + (j * count + q) * kTopClasses;
        const std::int32_t truth = test_labels[static_cast<std::size_t>(begin + q)];
        const int places = std::min(kTopClasses, accuracy.k);
        hits1[a] += top[0] == truth ? 1 : 0;
        hits5[a] += std::find(top, top + places, truth) != top + places ? 1 : 0;
      }
    }
  }
  for (std::vector<std::int64_t>* hits : {&hits1, &hits5}) {
    std::vector<std::int64_t> all(hits->size() * static_cast<std::size_t>(communicator.size()));
    communicator.all_gather_host(std::as_bytes(std::span(*hits)), std::as_writable_bytes(std::span(all)), "k-NN hits");
    for (std::size_t a = 0; a < hits->size(); ++a) {
      (*hits)[a] = 0;
      for (std::size_t i = a; i < all.size(); i += hits->size()) (*hits)[a] += all[i];
    }
  }
  for (std::size_t a = 0; a < result.accuracies.size(); ++a) {
    result.accuracies[a].top1 = 100.0 * static_cast<double>(hits1[a]) / static_cast<double>(queries);
    result.accuracies[a].top5 = 100.0 * static_cast<double>(hits5[a]) / static_cast<double>(queries);
  }
  return result;
}

}  // namespace dino
