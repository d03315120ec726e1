#include "models/tensor_source.h"

#include "engine/files.h"
#include "models/json.h"

#include <algorithm>
#include <set>

namespace dino {
namespace {

constexpr const char* kWhere = "weights";

class ShardedSource final : public TensorSource {
 public:
  explicit ShardedSource(const std::filesystem::path& index) {
    constexpr std::uintmax_t kMaxBytes = 64 << 20;
    std::error_code none;
    require(std::filesystem::file_size(index, none) <= kMaxBytes, kWhere, "{} is too large for an index",
            index.string());
    const nlohmann::json json = parse_json(read_text_file(index, kMostTextBytes));
    require(json.is_object() && json.contains("weight_map") && json["weight_map"].is_object() &&
                !json["weight_map"].empty(),
            kWhere, "{} is no index of weights: it has no weight_map", index.string());
    std::map<std::string, std::set<std::string>> names_of;
    for (const auto& [name, file] : json["weight_map"].items()) {
      require(file.is_string(), kWhere, "{}: the file of {} is no name", index.string(), name);
      names_of[file.get<std::string>()].insert(name);
    }
    for (const auto& [file, names] : names_of) require_beside(index, file);
    files_ = {index};
    for (const auto& [file, names] : names_of) add_shard(index, file, names);
  }

  void read(std::size_t position, std::span<float> to) override {
    const Place& place = places_[position];
    shards_[place.shard]->read(place.index, to);
  }

 private:
  struct Place {
    std::size_t shard, index;
  };

  /// An index that comes from somewhere must not point anywhere.
  static void require_beside(const std::filesystem::path& index, const std::string& file) {
    const bool beside = !file.empty() && file != "." && file != ".." && !file.ends_with(".json") &&
                        file.find('/') == std::string::npos && file.find('\0') == std::string::npos;
    require(beside, kWhere, "{}: {} is not the name of a file beside it", index.string(), file);
    const std::string obstacle = why_no_file(index.parent_path() / file);
    require(obstacle.empty(), kWhere, "{} names {}, which cannot be read: {}; try the whole folder", index.string(),
            file, obstacle);
  }

  void add_shard(const std::filesystem::path& index, const std::string& file, const std::set<std::string>& names) {
    const std::filesystem::path path = index.parent_path() / file;
    shards_.push_back(open_tensors(path));
    files_.push_back(path);
    const TensorSource& shard = *shards_.back();
    for (std::size_t i = 0; i < shard.tensors().size(); ++i) {
      const StoredTensor& tensor = shard.tensors()[i];
      require(names.contains(tensor.name), kWhere, "{} holds {}, which {} does not expect there", path.string(),
              tensor.name, index.string());
      tensors_.push_back(tensor);
      places_.push_back({shards_.size() - 1, i});
    }
    for (const std::string& name : names) {
      const bool found = std::any_of(shard.tensors().begin(), shard.tensors().end(),
                                     [&](const StoredTensor& tensor) { return tensor.name == name; });
      require(found, kWhere, "{} lacks {}, which {} says is there", path.string(), name, index.string());
    }
    metadata_.insert(shard.metadata().begin(), shard.metadata().end());
  }

  std::vector<std::unique_ptr<TensorSource>> shards_;
  std::vector<Place> places_;  // of tensors_
};

}  // namespace

std::unique_ptr<TensorSource> open_sharded(const std::filesystem::path& index) {
  return std::make_unique<ShardedSource>(index);
}

}  // namespace dino
