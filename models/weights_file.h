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
  // Attention heads; else what the metadata `num_heads` or a config.json says, else the default, else 64 columns each.
  std::optional<int> heads = {};
  std::optional<int> default_heads = {};
  bool allow_unexpected = false;  // ignore tensors that the network has no place for
};

/// Weights and a network that do not belong together.
class WeightsMismatch : public Error {
 public:
  WeightsMismatch(std::string_view what, std::vector<std::string> tensors)
      : Error("weights", what), tensors_(std::move(tensors)) {}
  /// One line for each tensor that does not fit, up to a limit and then their number; empty where what() names all.
  const std::vector<std::string>& tensors() const { return tensors_; }

 private:
  std::vector<std::string> tensors_;
};

/// A file of trained weights, its names brought into the form of a ParameterLayout: `backbone.*` and `head.*`.
/// Understood are
/// - the official backbone and timm's `vit_*.dino` (bare names), .safetensors or .pth;
/// - a full checkpoint of the official trainer or of this one: `teacher.…` and `student.…`, with `module.` in between;
/// - any of these behind `state_dict.` or `model.`;
/// - Hugging Face ViTModel names, with or without `vit.`: query, key and value are joined. The file may be a folder or
///   the index of several files (see open_tensors), and a config.json beside it is believed about the heads.
/// Every tensor is accounted for: it is the network's, or in left_out(), or load() refuses it. Tensors are read from
/// the file one at a time.
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
  /// The element type of a tensor in the file (of its first part).
  DType stored_dtype(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const { return source_->metadata(); }
  const std::filesystem::path& path() const { return path_; }
  /// All files that are read: of a folder or an index those in it, and the config.json that was believed.
  const std::vector<std::filesystem::path>& files() const { return files_; }
  /// Tensors of the file that no network of ours has, under their names there: of the other network of a checkpoint, of
  /// an optimiser, of heads for other tasks.
  const std::vector<std::string>& left_out() const { return left_out_; }

  /// Fills the parameters whose names start with `prefix` - the student's, and the teacher's where the store has one -
  /// and refreshes the working copies. Throws WeightsMismatch as require_fit() does.
  void load(ParameterStore& store, std::string_view prefix = "") const;
  /// Throws WeightsMismatch, listing the tensors, when any parameters whose names start with `prefix` are missing or
  /// have another shape, or (unless that is allowed) when the file has tensors in the same part (backbone or head) that
  /// the network has no place for.
  void require_fit(const ParameterLayout& layout, std::string_view prefix = "") const;

 private:
  friend WeightsFile read_weights(const std::filesystem::path& path, const WeightsOptions& options);
  /// One tensor of the network: one stored tensor, or several below each other.
  struct Entry {
    Shape shape;
    std::vector<std::size_t> parts;
  };

  void collect(const WeightsOptions& options);
  void derive_config(const WeightsOptions& options);

  std::filesystem::path path_;
  std::vector<std::filesystem::path> files_;
  std::unique_ptr<TensorSource> source_;
  std::map<std::string, Entry> tensors_;
  std::vector<std::string> left_out_;
  VitConfig config_;
  bool allow_unexpected_ = false;
};

WeightsFile read_weights(const std::filesystem::path& path, const WeightsOptions& options = {});

}  // namespace dino
