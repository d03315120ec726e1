#pragma once

#include "data/dataset.h"

#include <cstdint>

namespace dino {

/// A data set whose pictures are files of their own.
class FileDataset final : public Dataset {
 public:
  struct Item {
    std::string path;         // relative to the root
    std::int32_t label = -1;  // -1: none
  };

  FileDataset(std::filesystem::path root, std::vector<Item> items, std::vector<std::string> class_names,
              std::string summary, const DecodeOptions& options);
  /// As above; `boxes` has one for each item, or is empty.
  void set_boxes(std::vector<Box> boxes) { boxes_ = std::move(boxes); }

  std::int64_t size() const override { return static_cast<std::int64_t>(items_.size()); }
  void decode(std::int64_t index, Image& image) const override;
  std::int32_t label(std::int64_t index) const override { return item(index).label; }
  std::string name(std::int64_t index) const override { return (root_ / item(index).path).string(); }
  std::optional<Box> box(std::int64_t index) const override;

 private:
  const Item& item(std::int64_t index) const;

  std::filesystem::path root_;
  std::vector<Item> items_;
  std::vector<Box> boxes_;
  DecodeOptions options_;
};

/// Does the name end like a picture's, in any case: .jpg .jpeg .jpe .jfif .png .bmp .gif .tga .ppm .pgm .pnm.
bool has_picture_extension(const std::filesystem::path& path);

/// What lies in and below a folder.
struct FolderScan {
  std::vector<std::string> pictures;     // relative paths, sorted
  std::vector<std::string> sub_folders;  // names in the folder itself, sorted, none hidden
  std::int64_t skipped = 0;              // files that are hidden, broken links or of other extensions
  std::string skipped_example;           // one of them; not hidden, where there is such a one
};

/// Visits every folder once, however many links lead to it. Throws Error with the system's reason.
FolderScan scan_folder(const std::filesystem::path& folder);

/// Names of the folders in `folder`, sorted, none hidden.
std::vector<std::string> list_sub_folders(const std::filesystem::path& folder);

/// The kinds of data set of open_dataset() that are made of single files.
std::unique_ptr<Dataset> open_image_folder(const std::filesystem::path& folder,
                                           const std::vector<std::string>& class_names, const DecodeOptions& options);
std::unique_ptr<Dataset> open_list_file(const std::filesystem::path& path, const DecodeOptions& options);

}  // namespace dino
