#include "evaluate/near_copies.h"

#include "kernels/matmul/matmul.h"

#include <algorithm>
#include <map>
#include <numeric>

namespace dino {
namespace {

constexpr std::int64_t kTileRows = 1024;  // similarities of a tile: 4 MiB

/// Sets that grow together (Tarjan); the smallest member stands for each.
class DisjointSets {
 public:
  explicit DisjointSets(std::int64_t count) : parent_(static_cast<std::size_t>(count)) {
    std::iota(parent_.begin(), parent_.end(), std::int64_t{0});
  }
  std::int64_t find(std::int64_t i) {
    while (parent_[static_cast<std::size_t>(i)] != i) {
      std::int64_t& up = parent_[static_cast<std::size_t>(i)];
      up = parent_[static_cast<std::size_t>(up)];
      i = up;
    }
    return i;
  }
  void unite(std::int64_t a, std::int64_t b) {
    a = find(a);
    b = find(b);
    parent_[static_cast<std::size_t>(std::max(a, b))] = std::min(a, b);
  }

 private:
  std::vector<std::int64_t> parent_;
};

}  // namespace

std::vector<CopyGroup> find_near_copies(Context& context, std::span<const float> features, std::int64_t width,
                                        double threshold, const std::function<void(std::int64_t)>& progress) {
  require(threshold > 0 && threshold <= 1, "dedupe", "the threshold must lie in (0, 1]; got {}", threshold);
  require(width >= 1 && features.size() % static_cast<std::size_t>(width) == 0, "dedupe",
          "got {} numbers for rows of {}", features.size(), width);
  const std::int64_t n = static_cast<std::int64_t>(features.size()) / width;
  // Equal rows have a cosine of 1 up to the rounding of C products.
  const auto least = static_cast<float>(threshold - 1e-5);
  DisjointSets sets(n);
  std::vector<float> tile;
  if (n > 0) {
    const Tensor rows = context.from_host(ConstArray(features.data(), Shape{n, width}));
    for (std::int64_t top = 0; top < n; top += kTileRows) {
      const std::int64_t bottom = std::min(n, top + kTileRows);
      for (std::int64_t left = top; left < n; left += kTileRows) {
        const std::int64_t right = std::min(n, left + kTileRows);
        const Tensor similarity = context.empty({bottom - top, right - left}, DType::float32);
        matmul({.a = rows.rows(top, bottom).array(),
                .b = rows.rows(left, right).array(),
                .y = similarity.array(),
                .transpose_b = true},
               context.stream());
        tile.resize(static_cast<std::size_t>(similarity.size()));
        context.copy_to_host(similarity, Array(tile.data(), similarity.shape()));
        for (std::int64_t i = top; i < bottom; ++i) {
          const float* row = tile.data() + (i - top) * (right - left);
          for (std::int64_t j = std::max(left, i + 1); j < right; ++j) {
            if (row[j - left] >= least) sets.unite(i, j);
          }
        }
      }
      if (progress) progress(bottom);
    }
  }

  std::map<std::int64_t, CopyGroup> by_first;
  for (std::int64_t i = 0; i < n; ++i) by_first[sets.find(i)].rows.push_back(i);
  std::vector<CopyGroup> groups;
  for (auto& [first, group] : by_first) {
    if (group.rows.size() < 2) continue;
    for (const std::int64_t row : group.rows) {
      double product = 0;
      for (std::int64_t c = 0; c < width; ++c)
        product += static_cast<double>(features[static_cast<std::size_t>(first * width + c)]) *
                   static_cast<double>(features[static_cast<std::size_t>(row * width + c)]);
      group.similarity.push_back(static_cast<float>(product));
    }
    groups.push_back(std::move(group));
  }
  std::stable_sort(groups.begin(), groups.end(),
                   [](const CopyGroup& a, const CopyGroup& b) { return a.rows.size() > b.rows.size(); });
  return groups;
}

}  // namespace dino
