#include "models/weight_names.h"

#include "kernels/common/error.h"

#include <algorithm>
#include <cctype>
#include <string>

namespace dino {
namespace {

bool remove_prefix(std::string_view& name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return false;
  name.remove_prefix(prefix.size());
  return true;
}

struct Renaming {
  std::string_view from, to;
  std::size_t part = 0, part_count = 1;
};

// Hugging Face's ViTModel, outside its layers and inside one. What follows is `weight` or `bias`, or nothing.
constexpr Renaming kHuggingFace[] = {{"embeddings.cls_token", "cls_token"},
                                     {"embeddings.position_embeddings", "pos_embed"},
                                     {"embeddings.patch_embeddings.projection.", "patch_embed.proj."},
                                     {"layernorm.", "norm."}};
constexpr Renaming kHuggingFaceLayer[] = {{"layernorm_before.", "norm1."},
                                          {"layernorm_after.", "norm2."},
                                          {"attention.attention.query.", "attn.qkv.", 0, 3},
                                          {"attention.attention.key.", "attn.qkv.", 1, 3},
                                          {"attention.attention.value.", "attn.qkv.", 2, 3},
                                          {"attention.output.dense.", "attn.proj."},
                                          {"intermediate.dense.", "mlp.fc1."},
                                          {"output.dense.", "mlp.fc2."}};
// In the memory of transformers 5, which still writes the others unless it is told not to; behind `layers.`.
constexpr Renaming kHuggingFace5Layer[] = {{"layernorm_before.", "norm1."},
                                           {"layernorm_after.", "norm2."},
                                           {"attention.q_proj.", "attn.qkv.", 0, 3},
                                           {"attention.k_proj.", "attn.qkv.", 1, 3},
                                           {"attention.v_proj.", "attn.qkv.", 2, 3},
                                           {"attention.o_proj.", "attn.proj."},
                                           {"mlp.fc1.", "mlp.fc1."},
                                           {"mlp.fc2.", "mlp.fc2."}};

template <std::size_t N>
bool rename(const Renaming (&table)[N], std::string_view name, const std::string& prefix, WeightName& result) {
  for (const Renaming& renaming : table) {
    if (!remove_prefix(name, renaming.from)) continue;
    result = {prefix + std::string(renaming.to) + std::string(name), renaming.part, renaming.part_count};
    return true;
  }
  return false;
}

}  // namespace

WeightName canonical_weight_name(std::string_view name) {
  while (remove_prefix(name, "module.") || remove_prefix(name, "state_dict.") || remove_prefix(name, "model.")) {
  }
  // Heads of other tasks, and everything besides networks that a checkpoint carries.
  for (const std::string_view other :
       {"fc.", "fc_norm.", "classifier.", "pooler.", "vit.pooler.", "optimizer.", "dino_loss.", "fp16_scaler."}) {
    if (name.starts_with(other)) return {};
  }
  if (name == "head.weight" || name == "head.bias") return {};  // timm's classifier
  if (name.starts_with("head.")) return {std::string(name)};
  remove_prefix(name, "backbone.");

  WeightName result;
  std::string_view inner = name;
  remove_prefix(inner, "vit.");
  if (rename(kHuggingFace, inner, "backbone.", result)) return result;
  const bool version_5 = remove_prefix(inner, "layers.");
  if (version_5 || remove_prefix(inner, "encoder.layer.")) {
    const std::size_t dot = inner.find('.');
    const std::string_view layer = inner.substr(0, dot);
    const bool numbered = dot != std::string_view::npos && !layer.empty() &&
                          std::all_of(layer.begin(), layer.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
    if (numbered) {
      const std::string block = "backbone.blocks." + std::string(layer) + ".";
      const std::string_view rest = inner.substr(dot + 1);
      if (version_5 ? rename(kHuggingFace5Layer, rest, block, result) : rename(kHuggingFaceLayer, rest, block, result))
        return result;
    }
  }
  return {"backbone." + std::string(name)};
}

std::vector<std::string> hugging_face_names(std::string_view name) {
  const auto names = [&](const auto& table, std::string_view inner, const std::string& prefix) {
    std::vector<std::string> found;
    for (const Renaming& renaming : table) {
      if (!inner.starts_with(renaming.to)) continue;
      found.push_back(prefix + std::string(renaming.from) + std::string(inner.substr(renaming.to.size())));
    }
    return found;
  };
  remove_prefix(name, "backbone.");
  std::vector<std::string> found;
  std::string_view inner = name;
  if (remove_prefix(inner, "blocks.")) {
    const std::size_t dot = std::min(inner.find('.'), inner.size() - 1);
    found = names(kHuggingFaceLayer, inner.substr(dot + 1), "encoder.layer." + std::string(inner.substr(0, dot)) + ".");
  } else {
    found = names(kHuggingFace, name, "");
  }
  require(!found.empty(), "weights", "{} has no name in a Hugging Face ViTModel", name);
  return found;
}

}  // namespace dino
