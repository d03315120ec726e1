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

/// A file with one JSON object a line. Lines are on their way to the disk when append() returns; what a full disk does
/// not take waits in memory, and is reported.
class RunLog {
 public:
  /// Keeps the lines whose number `key` is below `first`, which is where the run goes on, and drops later ones, which a
  /// resumed run writes again, and what a crash left of a line. Throws WriteError where the file cannot be written.
  RunLog(const std::filesystem::path& path, const char* key, std::int64_t first, Report report);

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
