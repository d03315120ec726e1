#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace dino {

/// What a tensor of somebody's checkpoint is called in a ParameterLayout.
struct WeightName {
  std::string name;            // `backbone.…` or `head.…`; empty for what no network of ours has
  std::size_t part = 0;        // of the tensors stacked along the first dimension
  std::size_t part_count = 1;  // 3 for Hugging Face's query, key, value
};

/// Accepts official, timm and Hugging Face names (of transformers 4 and 5), behind any of the prefixes that trainers
/// leave.
WeightName canonical_weight_name(std::string_view name);

/// The other way: what a `backbone.…` tensor is called in Hugging Face's ViTModel. Three names, of its thirds along the
/// first dimension, for `attn.qkv`, else one. Throws Error for a name that has no counterpart.
std::vector<std::string> hugging_face_names(std::string_view name);

}  // namespace dino
