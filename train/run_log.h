#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <filesystem>
#include <fstream>

namespace dino {

/// A file with one JSON object a line, each with a `step`. Lines are on their way to the disk when append() returns.
class RunLog {
 public:
  /// Keeps the lines of steps before `first_step`, which is where the run goes on, and drops later ones, which a
  /// resumed run writes again.
  RunLog(const std::filesystem::path& path, std::int64_t first_step);

  void append(const nlohmann::ordered_json& line);

 private:
  std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace dino
