#pragma once

#include "engine/files.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace dino {

/// Takes a line for the user.
using Report = std::function<void(const std::string&)>;

/// Lines whose integer `key` is below `first`.
std::function<bool(const nlohmann::json& line)> lines_before(const char* key, std::int64_t first);

/// A file with one JSON object a line. Lines are on their way to the disk when append() returns; what a full disk does
/// not take waits in memory, and is reported.
class RunLog {
 public:
  /// Whether a line, which is a JSON object, is of the time before the run goes on.
  using Keep = std::function<bool(const nlohmann::json& line)>;

  /// Drops the lines of later times, which a resumed run writes again, and what a crash left of a line. Throws
  /// WriteError where the file cannot be written.
  RunLog(const std::filesystem::path& path, const Keep& keep, Report report);

  /// Drops lines once more, where the run goes back. A disk that does not take the file anew is reported, and the file
  /// stays as it is: of what is done again it then has two lines.
  void keep_only(const Keep& keep);

  void append(const nlohmann::ordered_json& line);
  /// Puts all lines on the disk, so that they outlive a power cut. Returns false where it does not take them.
  bool sync();
  /// Why lines wait; empty where none do.
  const std::string& trouble() const { return file_->trouble(); }

 private:
  void report_change();

  std::filesystem::path path_;
  Report report_;
  std::optional<AppendedFile> file_;
  bool reported_ = false;
};

}  // namespace dino
