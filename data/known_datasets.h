#pragma once

#include "data/dataset.h"

#include <cstdint>

namespace dino {

/// The kinds of data set of open_dataset() that have a layout of their own. Each returns null where `path` holds none
/// of its kind, and throws Error where it does but something is wrong with it.
std::unique_ptr<Dataset> open_tiny_imagenet(const std::filesystem::path& path, const DatasetOptions& options);
std::unique_ptr<Dataset> open_cifar10(const std::filesystem::path& path, const DatasetOptions& options);
/// `path` may also be the file of the images; its labels are then looked for beside it.
std::unique_ptr<Dataset> open_idx(const std::filesystem::path& path, const DatasetOptions& options);

/// Pictures of one size that are held in memory.
class MemoryDataset final : public Dataset {
 public:
  struct Content {
    int height = 0;
    int width = 0;
    bool color = false;                     // planes of red, green and blue one after the other; else one grey plane
    std::vector<std::uint8_t> pixels = {};  // (N, 3 or 1, height, width)
    std::vector<std::int32_t> labels = {};  // N, or none
    std::vector<std::string> class_names = {};
    std::string name = {};  // what messages call it
  };
  explicit MemoryDataset(Content content);

  std::int64_t size() const override { return size_; }
  void decode(std::int64_t index, Image& image) const override;
  std::int32_t label(std::int64_t index) const override;
  std::string name(std::int64_t index) const override;

 private:
  void check(std::int64_t index) const;

  Content content_;
  std::int64_t size_ = 0;
};

}  // namespace dino
