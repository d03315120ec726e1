#include "data/file_dataset.h"

#include "engine/text.h"
#include "kernels/common/error.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <set>
#include <system_error>

namespace dino {

namespace fs = std::filesystem;

FileDataset::FileDataset(fs::path root, PathList pictures, std::vector<std::string> class_names, std::string summary,
                         const DecodeOptions& options)
    : root_(std::move(root)), pictures_(std::move(pictures)), options_(options) {
  class_names_ = std::move(class_names);
  summary_ = printable(summary);
}

void FileDataset::decode(std::int64_t index, Image& image) const { decode_image_file(path(index), options_, image); }

std::optional<Box> FileDataset::box(std::int64_t index) const {
  checked(index);
  if (boxes_.empty()) return std::nullopt;
  return boxes_[static_cast<std::size_t>(index)];
}

std::int64_t FileDataset::checked(std::int64_t index) const {
  require(index >= 0 && index < size(), "data", "no picture {}; there are {}", index, size());
  return index;
}

bool has_picture_extension(const fs::path& path) {
  static constexpr std::array<std::string_view, 11> kExtensions = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp",
                                                                   ".gif", ".tga",  ".ppm", ".pgm",  ".pnm"};
  const std::string extension = lower_case(path.extension().string());
  return std::find(kExtensions.begin(), kExtensions.end(), extension) != kExtensions.end();
}

namespace {

bool hidden(const std::string& name) { return name.starts_with('.'); }

/// Calls `visit(entry, name)` for everything in `folder`; the system's reason where it cannot be read.
template <typename Visit>
std::error_code for_each_entry(const fs::path& folder, Visit&& visit) {
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    visit(*entry, entry->path().filename().string());
  }
  return error;
}

void require_readable(const fs::path& folder, const std::error_code& error) {
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
    const auto leave_out = [&](const std::error_code& error) {
      if (relative.empty()) require_readable(here, error);
      if (++scan.unreadable == 1) scan.unreadable_example = fmt::format("{}: {}", relative, error.message());
    };
    struct stat status {};
    if (stat(here.c_str(), &status) != 0) {  // gone since it was listed, perhaps
      leave_out(std::error_code(errno, std::generic_category()));
      continue;
    }
    if (!seen.emplace(status.st_dev, status.st_ino).second) continue;
    std::vector<std::string> below;
    const std::error_code error = for_each_entry(here, [&](const fs::directory_entry& entry, const std::string& name) {
      std::string path = relative.empty() ? name : relative + "/" + name;
      std::error_code ignored;  // a broken link is neither
      if (!hidden(name) && entry.is_directory(ignored)) {
        if (relative.empty()) scan.sub_folders.push_back(name);
        below.push_back(std::move(path));
      } else if (!hidden(name) && has_picture_extension(name) && entry.is_regular_file(ignored)) {
        scan.pictures.add(path);
      } else if (!entry.is_directory(ignored)) {
        ++scan.skipped;
        if (!hidden(name) && (scan.skipped_example.empty() || path < scan.skipped_example))
          scan.skipped_example = std::move(path);
      }
    });
    if (error) leave_out(error);
    // Depth first in sorted order, so that of two links to one folder the same one wins everywhere.
    std::sort(below.begin(), below.end(), std::greater<>());
    pending.insert(pending.end(), std::make_move_iterator(below.begin()), std::make_move_iterator(below.end()));
  }
  scan.pictures.sort();
  std::sort(scan.sub_folders.begin(), scan.sub_folders.end());
  return scan;
}

std::vector<std::string> list_sub_folders(const fs::path& folder) {
  std::vector<std::string> names;
  require_readable(folder, for_each_entry(folder, [&](const fs::directory_entry& entry, const std::string& name) {
                     std::error_code ignored;
                     if (!hidden(name) && entry.is_directory(ignored)) names.push_back(name);
                   }));
  std::sort(names.begin(), names.end());
  return names;
}

std::unique_ptr<Dataset> open_image_folder(const fs::path& folder, const std::vector<std::string>& class_names,
                                           const DecodeOptions& options, std::string left_out) {
  FolderScan scan = scan_folder(folder);
  if (scan.skipped != 0) left_out += fmt::format("; {} other files skipped", scan.skipped);
  if (scan.unreadable != 0)
    left_out += fmt::format("; {} folders left out, such as {}", scan.unreadable, scan.unreadable_example);
  if (scan.pictures.empty()) {
    const std::string found = scan.skipped == 0 ? "nothing"
                              : scan.skipped_example.empty()
                                  ? fmt::format("{} hidden files", scan.skipped)
                                  : fmt::format("{} other files such as {}", scan.skipped, scan.skipped_example);
    fail("data",
         "no pictures in {}; found {}, expected .jpg, .png, .bmp, .gif, .tga or .ppm files, in class folders or not{}",
         folder.string(), found, scan.unreadable != 0 ? left_out.substr(left_out.rfind("; ")) : "");
  }
  const std::vector<std::string>& classes = class_names.empty() ? scan.sub_folders : class_names;
  scan.pictures.label_by_folder([&](const std::string& path) {
    if (path.empty()) return -1;
    const std::string_view first = std::string_view(path).substr(0, path.find('/'));
    const auto found = std::lower_bound(classes.begin(), classes.end(), first);
    require(found != classes.end() && *found == first, "data", "{} is no known class folder; expected one of {} names",
            first, classes.size());
    return static_cast<std::int32_t>(found - classes.begin());
  });
  // Sorting by whole paths separates "a" from "a b/…" and "a/…"; classes come in one piece.
  scan.pictures.sort();
  const std::int64_t all = scan.pictures.size();
  if (scan.pictures.label(all - 1) < 0) {
    std::string summary =
        fmt::format("{}: {} {} without classes{}", folder.string(), all, all == 1 ? "picture" : "pictures", left_out);
    return std::make_unique<FileDataset>(folder, std::move(scan.pictures), std::vector<std::string>{},
                                         std::move(summary), options);
  }
  scan.pictures.erase(-1);
  const std::int64_t loose = all - scan.pictures.size();
  if (loose != 0) left_out += fmt::format("; {} pictures outside class folders skipped", loose);
  std::string summary = fmt::format("{}: {} pictures in {} class folders{}", folder.string(), scan.pictures.size(),
                                    classes.size(), left_out);
  return std::make_unique<FileDataset>(folder, std::move(scan.pictures), classes, std::move(summary), options);
}

}  // namespace dino
