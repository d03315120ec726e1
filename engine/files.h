#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace dino {

/// Writes a file beside its final name and renames it into place on commit(), after syncing it to the disk, so that no
/// half file ever stands under the final name. Without commit() the part written is removed. Throws Error with the
/// path and the system's reason, also where the name is taken by a folder, a device or a pipe: those stay as they are.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path partial_;
  int descriptor_ = -1;
};

/// Makes a folder where there is none, with those above it, and tries whether files can be made in it. Throws Error
/// with the path and the system's reason, before work is spent on what could not be kept.
void make_output_folder(const std::filesystem::path& path);

/// Removes the parts of files in a folder that AtomicFile could not finish because its process was killed.
void remove_abandoned_parts(const std::filesystem::path& folder);

/// The whole file. Throws Error with the path and the system's reason.
std::string read_text_file(const std::filesystem::path& path);

}  // namespace dino
