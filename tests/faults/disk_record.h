#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace dino::test {

/// One recorded call that changed something in a folder.
struct DiskCall {
  enum class Kind { open, write, sync, close, sync_folder, rename, link, unlink };
  Kind kind;
  int descriptor = -1;
  bool truncates = false;
  std::uint64_t offset = 0;
  std::string first, second;  // names in the folder; of a write: its bytes
};

/// What faulty_disk.cpp recorded of the files directly in `folder`.
std::vector<DiskCall> read_disk_record(const std::filesystem::path& record, const std::filesystem::path& folder);

/// What stands on a disk when the power fails.
enum class PowerLoss {
  nothing_lost,  // everything reached the disk: also what SIGKILL leaves
  late_data,     // names did, but of the contents only what was synced
  late_names,    // neither did, unless they were synced
  torn,          // some names did, and some sectors
};

/// A folder on a disk that may lose whatever was not synced: contents by fsync of the file, names by fsync of the
/// folder.
class DiskModel {
 public:
  void apply(const DiskCall& call);
  /// Contents by name after a loss of power. `random` decides what torn keeps.
  std::map<std::string, std::string> after(PowerLoss loss, std::mt19937& random) const;

 private:
  struct File {
    std::string now, synced;
  };
  using Names = std::map<std::string, std::shared_ptr<File>>;
  /// A change of the names that the disk may not have yet. An empty file: the name goes away.
  struct Change {
    std::string name;
    std::shared_ptr<File> file;
  };

  void change(std::vector<Change> step);

  Names now_, synced_;
  std::vector<std::vector<Change>> waiting_;  // since the folder was synced; those of a step come together
  std::map<int, std::shared_ptr<File>> open_;
};

}  // namespace dino::test
