#include "train/run_log.h"

#include "engine/files.h"
#include "models/json.h"

#include <nlohmann/json.hpp>

#include <utility>

namespace dino {

std::function<bool(const nlohmann::json& line)> lines_before(const char* key, std::int64_t first) {
  return [key, first](const nlohmann::json& line) {
    return line.contains(key) && line[key].is_number_integer() && line[key].get<std::int64_t>() < first;
  };
}

namespace {

/// Calls `use` for each line that stays. Returns whether the file is made of those and nothing else.
bool for_each_kept(const std::filesystem::path& path, const RunLog::Keep& keep,
                   const std::function<void(const std::string& line)>& use) {
  bool all = true;
  LineReader lines(path);
  for (std::string line; lines.next(line);) {
    // None of a run's is so long: what a crash or a damaged disk left.
    const nlohmann::json json = lines.is_cut() ? nlohmann::json() : parse_json(line);
    const bool stays = json.is_object() && keep(json);
    if (stays) use(line);
    all &= stays && lines.has_end();
  }
  return all;
}

void drop_lines(const std::filesystem::path& path, const RunLog::Keep& keep) {
  const bool there = file_exists(path);
  if (there && for_each_kept(path, keep, [](const std::string&) {})) return;
  AtomicFile file(path);
  if (there) for_each_kept(path, keep, [&](const std::string& line) { file.write(line + "\n"); });
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
