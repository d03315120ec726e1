#include "train/run_log.h"

#include "engine/files.h"
#include "models/json.h"

#include <nlohmann/json.hpp>

#include <sstream>
#include <utility>

namespace dino {

RunLog::RunLog(const std::filesystem::path& path, const char* key, std::int64_t first, Report report)
    : path_(path), report_(std::move(report)) {
  const std::string before = std::filesystem::exists(path) ? read_text_file(path) : std::string();
  std::string kept;
  std::stringstream text(before);
  for (std::string line; std::getline(text, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, false);
    const bool has_number = json.is_object() && json.contains(key) && json[key].is_number_integer();
    if (has_number && json[key].get<std::int64_t>() < first) kept += line + "\n";
  }
  if (kept != before || before.empty()) {
    AtomicFile file(path);
    file.write(kept);
    file.commit();
  }
  file_.emplace(path);
}

void RunLog::report_change() {
  const bool waits = !trouble().empty();
  if (waits == std::exchange(reported_, waits)) return;
  if (waits) report_(fmt::format("lines wait in memory, training goes on: {}", trouble()));
  if (!waits) report_(fmt::format("{} is complete again", path_.string()));
}

void RunLog::append(const nlohmann::ordered_json& line) {
  file_->append(json_text(line) + '\n');
  report_change();
}

bool RunLog::sync() {
  const bool synced = file_->sync();
  report_change();
  return synced;
}

}  // namespace dino
