// Finds out what kind of data set stands at a path.
#include "data/dataset.h"

#include "data/file_dataset.h"
#include "data/known_datasets.h"
#include "kernels/common/error.h"

#include <algorithm>
#include <array>
#include <system_error>

namespace dino {

namespace fs = std::filesystem;

namespace {

constexpr std::array<std::string_view, 3> kSplits = {"train", "val", "test"};

/// Opens one split of a folder that holds splits.
std::unique_ptr<Dataset> open_split(const fs::path& root, const std::vector<std::string>& splits,
                                    const DatasetOptions& options) {
  const auto has = [&](std::string_view name) { return std::find(splits.begin(), splits.end(), name) != splits.end(); };
  const std::string wanted = options.split == "val" && !has("val") ? "test" : options.split;
  if (!has(wanted)) {
    fail("data", "{} has no split \"{}\"; found {}", root.string(), options.split, fmt::join(splits, ", "));
  }
  std::vector<std::string> class_names;
  for (const std::string& split : splits) {
    for (std::string& name : list_sub_folders(root / split)) class_names.push_back(std::move(name));
  }
  std::sort(class_names.begin(), class_names.end());
  class_names.erase(std::unique(class_names.begin(), class_names.end()), class_names.end());
  return open_image_folder(root / wanted, class_names, options.decode);
}

}  // namespace

std::optional<Box> Dataset::box(std::int64_t) const { return std::nullopt; }

std::unique_ptr<Dataset> open_dataset(const fs::path& path, const DatasetOptions& options) {
  require(std::find(kSplits.begin(), kSplits.end(), options.split) != kSplits.end(), "data",
          "unknown split \"{}\"; expected train, val or test", options.split);
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  require(status.type() != fs::file_type::not_found, "data",
          "there is no {}; expected a folder of pictures; try `dino_cuda data` to get or draw some", path.string());
  require(!error, "data", "cannot read {}: {}", path.string(), error.message());
  if (!fs::is_directory(status)) {
    require(fs::is_regular_file(status), "data", "{} is neither a folder nor a file", path.string());
    auto pair = open_idx(path, options);
    return pair != nullptr ? std::move(pair) : open_list_file(path, options.decode);
  }
  for (const auto open : {open_tiny_imagenet, open_cifar10, open_idx}) {
    if (auto dataset = open(path, options)) return dataset;
  }
  std::vector<std::string> splits = list_sub_folders(path);
  std::erase_if(
      splits, [](const std::string& name) { return std::find(kSplits.begin(), kSplits.end(), name) == kSplits.end(); });
  if (!splits.empty()) return open_split(path, splits, options);
  require(options.split == "train", "data", "{} has no split \"{}\"; expected a folder of that name in it",
          path.string(), options.split);
  return open_image_folder(path, {}, options.decode);
}

}  // namespace dino
