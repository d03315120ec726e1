#pragma once

#include "models/vit_config.h"

#include <filesystem>
#include <optional>
#include <string>

namespace dino {

/// What the config.json of a Hugging Face ViTModel says about the network; what it leaves out is empty.
struct HuggingFaceConfig {
  std::optional<int> hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, patch_size;
  std::optional<int> image_size;  // empty also where it is a list

  /// Throws Error, naming the file and the key, when it describes a network that is computed differently from ours:
  /// another model_type, activation or number of channels, or a layer_norm_eps above 1e-5.
  static HuggingFaceConfig read(const std::filesystem::path& path);
  /// Throws Error, naming the file and the key, when it says otherwise than the shapes of the tensors do.
  void require_agrees(const VitConfig& config, const std::filesystem::path& path) const;
};

/// The config.json and preprocessor_config.json that belong to a network, for transformers' AutoModel and
/// AutoImageProcessor. `torch_dtype` is PyTorch's name of the tensors' type.
std::string hugging_face_config(const VitConfig& config, const std::string& torch_dtype);
std::string hugging_face_preprocessor_config(const VitConfig& config);

}  // namespace dino
