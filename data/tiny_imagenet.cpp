// Tiny ImageNet as published: wnids.txt; train/WNID/images/*.JPEG with train/WNID/WNID_boxes.txt; val/images/*.JPEG
// with val/val_annotations.txt; test/images/*.JPEG.
#include "data/file_dataset.h"
#include "data/known_datasets.h"
#include "engine/files.h"
#include "kernels/common/error.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <system_error>

namespace dino {

namespace fs = std::filesystem;

namespace {

/// Calls `visit(words, line number)` with the words of each line that has any.
template <typename Visit>
void for_each_line(const fs::path& path, Visit&& visit) {
  const std::string text = read_text_file(path, kMostTextBytes);
  std::int64_t number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::vector<std::string> words;
    for (std::size_t i = begin; i < end;) {
      const std::size_t stop = std::min(text.find_first_of(" \t\r\n", i), end);
      if (stop > i) words.push_back(text.substr(i, stop - i));
      i = stop + 1;
    }
    begin = end + 1;
    ++number;
    if (!words.empty()) visit(words, number);
  }
}

int parse_side(const std::string& word, const fs::path& path, std::int64_t line) {
  int value = -1;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  constexpr int kMaxSide_px = 1 << 24;
  require(error == std::errc() && end == word.data() + word.size() && value >= 0 && value < kMaxSide_px, "data",
          "{} line {}: got \"{}\", expected a pixel", path.string(), line, word);
  return value;
}

/// Four words from `first` on. The files give the last pixel inside; a Box the first outside.
Box parse_box(const std::vector<std::string>& words, std::size_t first, const fs::path& path, std::int64_t line) {
  const auto side = [&](std::size_t i) { return parse_side(words[first + i], path, line); };
  return {side(0), side(1), side(2) + 1, side(3) + 1};
}

struct Items {
  PathList items;
  std::vector<Box> boxes;
};

Items read_train(const fs::path& root, const std::vector<std::string>& wnids) {
  Items result;
  for (std::size_t label = 0; label < wnids.size(); ++label) {
    const std::string& wnid = wnids[label];
    const fs::path folder = root / "train" / wnid;
    require(file_exists(folder), "data", "{} is missing, though wnids.txt names it; unpack the archive again",
            folder.string());
    std::map<std::string, Box> boxes;
    const fs::path boxes_path = folder / (wnid + "_boxes.txt");
    if (file_exists(boxes_path)) {
      for_each_line(boxes_path, [&](const std::vector<std::string>& words, std::int64_t line) {
        require(words.size() == 5, "data", "{} line {}: expected a name and four numbers", boxes_path.string(), line);
        boxes[words[0]] = parse_box(words, 1, boxes_path, line);
      });
    }
    const PathList pictures = scan_folder(folder).pictures;
    for (std::int64_t i = 0; i < pictures.size(); ++i) {
      const std::string picture = pictures[i];
      result.items.add("train/" + wnid + "/" + picture, static_cast<std::int32_t>(label));
      const auto box = boxes.find(fs::path(picture).filename().string());
      result.boxes.push_back(box == boxes.end() ? Box{} : box->second);
    }
  }
  return result;
}

Items read_val(const fs::path& root, const std::vector<std::string>& wnids) {
  Items result;
  const fs::path path = root / "val" / "val_annotations.txt";
  for_each_line(path, [&](const std::vector<std::string>& words, std::int64_t line) {
    require(words.size() == 6, "data", "{} line {}: expected a name, a class and four numbers", path.string(), line);
    const auto found = std::lower_bound(wnids.begin(), wnids.end(), words[1]);
    require(found != wnids.end() && *found == words[1], "data", "{} line {}: class {} is not in wnids.txt",
            path.string(), line, words[1]);
    const std::string obstacle = why_no_file(root / "val" / "images" / words[0]);
    require(obstacle.empty(), "data", "{} line {}: cannot read images/{}: {}", path.string(), line, words[0], obstacle);
    result.items.add("val/images/" + words[0], static_cast<std::int32_t>(found - wnids.begin()));
    result.boxes.push_back(parse_box(words, 2, path, line));
  });
  return result;
}

}  // namespace

std::unique_ptr<Dataset> open_tiny_imagenet(const fs::path& path, const DatasetOptions& options) {
  std::error_code ignored;
  if (!fs::is_regular_file(path / "wnids.txt", ignored) || !fs::is_directory(path / "train", ignored)) return nullptr;
  std::vector<std::string> wnids;
  for_each_line(path / "wnids.txt",
                [&](const std::vector<std::string>& words, std::int64_t) { wnids.push_back(words[0]); });
  std::sort(wnids.begin(), wnids.end());
  wnids.erase(std::unique(wnids.begin(), wnids.end()), wnids.end());
  for (const std::string& wnid : wnids) {
    require(wnid.find('/') == std::string::npos && wnid.front() != '.', "data", "{}: {} cannot name a folder",
            (path / "wnids.txt").string(), wnid);
  }

  Items found;
  if (options.split == "train") {
    found = read_train(path, wnids);
  } else if (options.split == "val") {
    // Often rearranged into class folders, which every other reader expects.
    if (!file_exists(path / "val" / "val_annotations.txt")) {
      return open_image_folder(path / "val", wnids, options.decode);
    }
    found = read_val(path, wnids);
  } else {
    require(file_exists(path / "test"), "data", "{} has no split \"test\"; found train and val", path.string());
    const PathList pictures = scan_folder(path / "test").pictures;
    for (std::int64_t i = 0; i < pictures.size(); ++i) found.items.add("test/" + pictures[i]);
  }
  require(!found.items.empty(), "data", "no pictures in the {} split of {}; unpack the archive again", options.split,
          path.string());
  std::string summary = fmt::format("{}: Tiny ImageNet, {} split: {} pictures, {} classes", path.string(),
                                    options.split, found.items.size(), wnids.size());
  auto dataset =
      std::make_unique<FileDataset>(path, std::move(found.items), std::move(wnids), std::move(summary), options.decode);
  dataset->set_boxes(std::move(found.boxes));
  return dataset;
}

}  // namespace dino
