#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace dino {

/// What a tensor of somebody's checkpoint is called in a ParameterLayout.
struct WeightName {
  std::string name;            // `backbone.…` or `head.…`; empty for what no network of ours has
  std::size_t part = 0;        // of the tensors stacked along the first dimension
  std::size_t part_count = 1;  // 3 for Hugging Face's query, key, value
};

/// Accepts official, timm and Hugging Face names, behind any of the prefixes that trainers leave.
WeightName canonical_weight_name(std::string_view name);

}  // namespace dino
