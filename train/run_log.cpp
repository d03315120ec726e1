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

namespace {

void drop_lines(const std::filesystem::path& path, const RunLog::Keep& keep) {
  const std::string before = std::filesystem::exists(path) ? read_text_file(path) : std::string();
  std::string kept;
  std::stringstream text(before);
  for (std::string line; std::getline(text, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_object() && keep(json)) kept += line + "\n";
  }
  if (kept == before && !before.empty()) return;
  AtomicFile file(path);
  file.write(kept);
  file.commit();
}

}  // namespace

RunLog::RunLog(const std::filesystem::path& path, const Keep& keep, Report report)
    : path_(path), report_(std::move(report)) {
  drop_lines(path_, keep);
  file_.emplace(path_);
}

void RunLog::keep_only(const Keep& keep) {
  // Lines that wait in memory would come behind those that are kept.
  std::string obstacle = sync() ? std::string() : trouble();
  try {
    if (obstacle.empty()) drop_lines(path_, keep);
  } catch (const WriteError& error) {
    obstacle = error.what();
  }
  if (obstacle.empty()) {
    file_.emplace(path_);
  } else {
    report_(fmt::format("{} keeps the lines of what is done again: {}", path_.string(), obstacle));
  }
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
