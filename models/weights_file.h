#pragma once

#include "engine/parameters.h"
#include "models/tensor_source.h"
#include "models/vit_config.h"

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dino {

enum class Network { teacher, student };

struct WeightsOptions {
  Network network = Network::teacher;  // of a file that holds both
  std::optional<int> heads = {};       // attention heads; else from the metadata `num_heads`, else 64 columns a head
};

/// A file of trained weights, its names brought into the form of a ParameterLayout: `backbone.*` and `head.*`.
/// Understood are
/// - the official backbone and timm's `vit_*.dino` (bare names), .safetensors or .pth;
/// - a full checkpoint of the official trainer or of this one: `teacher.…` and `student.…`, with `module.` in between;
/// - any of these behind `state_dict.` or `model.`;
/// - Hugging Face ViTModel names, with or without `vit.`: query, key and value are joined.
/// Tensors are read from the file one at a time.
class WeightsFile {
 public:
  /// The backbone, read off the shapes.
  const VitConfig& config() const { return config_; }
  /// Whether there is a DINO head.
  bool has_head() const { return tensors_.contains("head.last_layer.weight_v"); }
  bool contains(const std::string& name) const { return tensors_.contains(name); }
  /// Names in alphabetical order.
  std::vector<std::string> names() const;
  /// Throws Error when there is no such tensor.
  Shape shape(const std::string& name) const;
  std::vector<float> read(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const { return source_->metadata(); }

  /// Fills the parameters whose names start with `prefix` - the student's, and the teacher's where the store has one -
  /// and refreshes the working copies. Throws Error, listing the tensors, when any are missing or have another shape,
  /// or when the file has tensors in the same part (backbone or head) that the network has no place for.
  void load(ParameterStore& store, std::string_view prefix = "") const;

 private:
  friend WeightsFile read_weights(const std::filesystem::path& path, const WeightsOptions& options);
  /// One tensor of the network: one stored tensor, or several below each other.
  struct Entry {
    Shape shape;
    std::vector<std::size_t> parts;
  };

  void collect(const WeightsOptions& options);
  void derive_config(const WeightsOptions& options);
  void require_fit(const ParameterLayout& layout, std::string_view prefix) const;

  std::filesystem::path path_;
  std::unique_ptr<TensorSource> source_;
  std::map<std::string, Entry> tensors_;
  VitConfig config_;
};

WeightsFile read_weights(const std::filesystem::path& path, const WeightsOptions& options = {});

}  // namespace dino
