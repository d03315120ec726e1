#pragma once

#include "data/dataset.h"
#include "data/path_list.h"

#include <cstdint>

namespace dino {

/// A data set whose pictures are files of their own.
class FileDataset final : public Dataset {
 public:
  /// `pictures` are relative to the root.
  FileDataset(std::filesystem::path root, PathList pictures, std::vector<std::string> class_names, std::string summary,
              const DecodeOptions& options);
  /// `boxes` has one for each picture, or is empty.
  void set_boxes(std::vector<Box> boxes) { boxes_ = std::move(boxes); }

  std::int64_t size() const override { return pictures_.size(); }
  void decode(std::int64_t index, Image& image) const override;
  std::int32_t label(std::int64_t index) const override { return pictures_.label(checked(index)); }
  std::string name(std::int64_t index) const override { return path(index).string(); }
  std::optional<Box> box(std::int64_t index) const override;

 private:
  std::int64_t checked(std::int64_t index) const;
  std::filesystem::path path(std::int64_t index) const { return root_ / pictures_[checked(index)]; }

  std::filesystem::path root_;
  PathList pictures_;
  std::vector<Box> boxes_;
  DecodeOptions options_;
};

/// Does the name end like a picture's, in any case: .jpg .jpeg .jpe .jfif .png .bmp .gif .tga .ppm .pgm .pnm.
bool has_picture_extension(const std::filesystem::path& path);

/// What lies in and below a folder.
struct FolderScan {
  PathList pictures;                     // relative paths, sorted, without classes
  std::vector<std::string> sub_folders;  // names in the folder itself, sorted, none hidden
  std::int64_t skipped = 0;              // files that are hidden, broken links or of other extensions
  std::string skipped_example;           // one of them; not hidden, where there is such a one
  std::int64_t unreadable = 0;           // folders that cannot be looked into, and are left out
  std::string unreadable_example;        // one of them, with the system's reason
};

/// Visits every folder once, however many links lead to it. Throws Error with the system's reason where `folder` itself
/// cannot be read.
FolderScan scan_folder(const std::filesystem::path& folder);

/// Names of the folders in `folder`, sorted, none hidden.
std::vector<std::string> list_sub_folders(const std::filesystem::path& folder);

/// The kinds of data set of open_dataset() that are made of single files. `left_out` goes to the end of the summary.
std::unique_ptr<Dataset> open_image_folder(const std::filesystem::path& folder,
                                           const std::vector<std::string>& class_names, const DecodeOptions& options,
                                           std::string left_out = {});
std::unique_ptr<Dataset> open_list_file(const std::filesystem::path& path, const DecodeOptions& options);

}  // namespace dino
