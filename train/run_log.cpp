#include "train/run_log.h"

#include "engine/files.h"
#include "models/json.h"

#include <nlohmann/json.hpp>

#include <sstream>
#include <utility>

namespace dino {

std::function<bool(const nlohmann::json& line)> lines_before(const char* key, std::int64_t first) {
  return [key, first](const nlohmann::json& line) {
    return line.contains(key) && line[key].is_number_integer() && line[key].get<std::int64_t>() < first;
  };
}

RunLog::RunLog(const std::filesystem::path& path, const Keep& keep, Report report)
    : path_(path), report_(std::move(report)) {
  const std::string before = std::filesystem::exists(path) ? read_text_file(path) : std::string();
  std::string kept;
  std::stringstream text(before);
  for (std::string line; std::getline(text, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_object() && keep(json)) kept += line + "\n";
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
