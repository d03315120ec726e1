#include "data/file_dataset.h"

#include "kernels/common/error.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <set>
#include <system_error>

namespace dino {

namespace fs = std::filesystem;

FileDataset::FileDataset(fs::path root, std::vector<Item> items, std::vector<std::string> class_names,
                         std::string summary, const DecodeOptions& options)
    : root_(std::move(root)), items_(std::move(items)), options_(options) {
  class_names_ = std::move(class_names);
  summary_ = std::move(summary);
}

void FileDataset::decode(std::int64_t index, Image& image) const {
  decode_image_file(root_ / item(index).path, options_, image);
}

std::optional<Box> FileDataset::box(std::int64_t index) const {
  item(index);
  if (boxes_.empty()) return std::nullopt;
  return boxes_[static_cast<std::size_t>(index)];
}

const FileDataset::Item& FileDataset::item(std::int64_t index) const {
  require(index >= 0 && index < size(), "data", "no picture {}; there are {}", index, size());
  return items_[static_cast<std::size_t>(index)];
}

bool has_picture_extension(const fs::path& path) {
  static constexpr std::array<std::string_view, 11> kExtensions = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp",
                                                                   ".gif", ".tga",  ".ppm", ".pgm",  ".pnm"};
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return std::find(kExtensions.begin(), kExtensions.end(), extension) != kExtensions.end();
}

namespace {

bool hidden(const std::string& name) { return name.starts_with('.'); }

/// Calls `visit(entry, name)` for everything in `folder`.
template <typename Visit>
void for_each_entry(const fs::path& folder, Visit&& visit) {
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    visit(*entry, entry->path().filename().string());
  }
  require(!error, "data", "cannot read the folder {}: {}", folder.string(), error.message());
}

}  // namespace

FolderScan scan_folder(const fs::path& folder) {
  FolderScan scan;
  std::set<std::pair<dev_t, ino_t>> seen;
  std::vector<std::string> pending{""};  // relative, "" is the folder itself
  while (!pending.empty()) {
    const std::string relative = std::move(pending.back());
    pending.pop_back();
    const fs::path here = folder / relative;
    struct stat status {};
    require(stat(here.c_str(), &status) == 0, "data", "cannot read the folder {}: {}", here.string(),
            std::strerror(errno));
    if (!seen.emplace(status.st_dev, status.st_ino).second) continue;
    std::vector<std::string> below;
    for_each_entry(here, [&](const fs::directory_entry& entry, const std::string& name) {
      std::string path = relative.empty() ? name : relative + "/" + name;
      std::error_code ignored;  // a broken link is neither
      if (!hidden(name) && entry.is_directory(ignored)) {
        if (relative.empty()) scan.sub_folders.push_back(name);
        below.push_back(std::move(path));
      } else if (!hidden(name) && has_picture_extension(name) && entry.is_regular_file(ignored)) {
        scan.pictures.push_back(std::move(path));
      } else if (!entry.is_directory(ignored)) {
        ++scan.skipped;
        if (!hidden(name) && (scan.skipped_example.empty() || path < scan.skipped_example))
          scan.skipped_example = std::move(path);
      }
    });
    // Depth first in sorted order, so that of two links to one folder the same one wins everywhere.
    std::sort(below.begin(), below.end(), std::greater<>());
    pending.insert(pending.end(), std::make_move_iterator(below.begin()), std::make_move_iterator(below.end()));
  }
  std::sort(scan.pictures.begin(), scan.pictures.end());
  std::sort(scan.sub_folders.begin(), scan.sub_folders.end());
  return scan;
}

std::vector<std::string> list_sub_folders(const fs::path& folder) {
  std::vector<std::string> names;
  for_each_entry(folder, [&](const fs::directory_entry& entry, const std::string& name) {
    std::error_code ignored;
    if (!hidden(name) && entry.is_directory(ignored)) names.push_back(name);
  });
  std::sort(names.begin(), names.end());
  return names;
}

std::unique_ptr<Dataset> open_image_folder(const fs::path& folder, const std::vector<std::string>& class_names,
                                           const DecodeOptions& options) {
  const FolderScan scan = scan_folder(folder);
  if (scan.pictures.empty()) {
    const std::string found = scan.skipped == 0 ? "nothing"
                              : scan.skipped_example.empty()
                                  ? fmt::format("{} hidden files", scan.skipped)
                                  : fmt::format("{} other files such as {}", scan.skipped, scan.skipped_example);
    fail("data",
         "no pictures in {}; found {}, expected .jpg, .png, .bmp, .gif, .tga or .ppm files, in class folders or not",
         folder.string(), found);
  }
  std::vector<FileDataset::Item> in_folders;
  std::vector<FileDataset::Item> loose;
  const std::vector<std::string>& classes = class_names.empty() ? scan.sub_folders : class_names;
  for (const std::string& picture : scan.pictures) {
    const std::size_t slash = picture.find('/');
    if (slash == std::string::npos) {
      loose.push_back({picture, -1});
      continue;
    }
    const auto found = std::lower_bound(classes.begin(), classes.end(), std::string_view(picture).substr(0, slash));
    require(found != classes.end() && std::string_view(picture).starts_with(*found + "/"), "data",
            "{} is in no known class folder; expected one of {} names", picture, classes.size());
    in_folders.push_back({picture, static_cast<std::int32_t>(found - classes.begin())});
  }
  std::string skipped;
  if (scan.skipped != 0) skipped += fmt::format("; {} other files skipped", scan.skipped);
  if (in_folders.empty()) {
    std::string summary = fmt::format("{}: {} pictures without classes{}", folder.string(), loose.size(), skipped);
    return std::make_unique<FileDataset>(folder, std::move(loose), std::vector<std::string>{}, std::move(summary),
                                         options);
  }
  if (!loose.empty()) skipped += fmt::format("; {} pictures outside class folders skipped", loose.size());
  // Sorting by whole paths separates "a" from "a b/…" and "a/…"; classes come in one piece.
  std::stable_sort(in_folders.begin(), in_folders.end(),
                   [](const auto& a, const auto& b) { return a.label < b.label; });
  std::string summary =
      fmt::format("{}: {} pictures in {} class folders{}", folder.string(), in_folders.size(), classes.size(), skipped);
  return std::make_unique<FileDataset>(folder, std::move(in_folders), classes, std::move(summary), options);
}

}  // namespace dino
