// Finds out what kind of data set stands at a path.
#include "data/dataset.h"

#include "data/file_dataset.h"
#include "data/known_datasets.h"
#include "engine/text.h"
#include "kernels/common/error.h"

#include <algorithm>
#include <array>
#include <system_error>

namespace dino {

namespace fs = std::filesystem;

namespace {

constexpr std::array<std::string_view, 3> kSplits = {"train", "val", "test"};

/// Opens one split of a folder that holds splits and perhaps `others`.
std::unique_ptr<Dataset> open_split(const fs::path& root, const std::vector<std::string>& splits,
                                    const std::vector<std::string>& others, const DatasetOptions& options) {
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
  const std::string left_out =
      others.empty() ? "" : fmt::format("; {} beside the splits left out, such as {}", others.size(), others.front());
  return open_image_folder(root / wanted, class_names, options.decode, left_out);
}

/// Refuses folders that are meant to be splits and would become classes: Train and Test, training and validation.
void require_no_split_in_other_words(const fs::path& root, const std::vector<std::string>& folders) {
  constexpr std::array<std::string_view, 7> kWords = {"train",      "training", "val",    "valid",
                                                      "validation", "test",     "testing"};
  const auto is_word = [&](const std::string& name) {
    return std::find(kWords.begin(), kWords.end(), lower_case(name)) != kWords.end();
  };
  const auto trains = [](const std::string& name) { return lower_case(name).starts_with("train"); };
  const bool splits =
      std::all_of(folders.begin(), folders.end(), is_word) && std::any_of(folders.begin(), folders.end(), trains);
  require(!splits, "data",
          "{} has folders that look like splits; got {}, expected train, val and test; try renaming them",
          root.string(), fmt::join(folders, ", "));
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
  std::vector<std::string> splits, others;
  for (const std::string& name : list_sub_folders(path))
    (std::find(kSplits.begin(), kSplits.end(), name) != kSplits.end() ? splits : others).push_back(name);
  if (!splits.empty()) return open_split(path, splits, others, options);
  require_no_split_in_other_words(path, others);
  require(options.split == "train", "data", "{} has no split \"{}\"; expected a folder of that name in it",
          path.string(), options.split);
  return open_image_folder(path, {}, options.decode);
}

}  // namespace dino
