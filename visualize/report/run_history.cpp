#include "visualize/report/run_history.h"

#include "engine/files.h"
#include "kernels/common/error.h"
#include "models/json.h"
#include "train/config.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <limits>

namespace dino {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxKeys = 64;  // of numbers in a log
constexpr std::size_t kMaxHealthLines = 1000, kMaxStarts = 200, kMaxBroken = 20;

double number(const Json& json) {
  // What is not finite was written as null.
  return json.is_number() ? json.get<double>() : std::numeric_limits<double>::quiet_NaN();
}

std::int64_t whole(const Json& json, const char* key, std::int64_t fallback) {
  const auto at = json.find(key);
  return at != json.end() && at->is_number_integer() ? at->get<std::int64_t>() : fallback;
}

std::string text(const Json& json, const char* key) {
  const auto at = json.find(key);
  if (at == json.end()) return {};
  return at->is_string() ? at->get<std::string>() : at->dump();
}

/// Calls `use` for the whole lines of a file, if there is one, from byte `begin` on; returns where the first torn one
/// begins. A line that is too long to be a run's comes as what is no JSON, whether it ends or not.
std::uintmax_t read_lines(const std::filesystem::path& path, std::uintmax_t begin,
                          const std::function<void(const std::string&)>& use) {
  if (!file_exists(path)) return begin;
  LineReader lines(path, begin);
  for (std::string line; lines.next(line);) {
    if (!lines.has_end() && !lines.is_cut()) break;
    begin = lines.position();
    use(lines.is_cut() ? "{" : line);
  }
  return begin;
}

std::vector<KnnScore> scores(const Json& line, const char* key) {
  std::vector<KnnScore> result;
  const auto at = line.find(key);
  if (at == line.end() || !at->is_array()) return result;
  for (const Json& row : *at) {
    if (!row.is_object()) continue;
    const KnnScore score{static_cast<int>(whole(row, "k", 0)), number(row.value("top1", Json())),
                         number(row.value("top5", Json()))};
    if (std::isfinite(score.top1)) result.push_back(score);
  }
  return result;
}

/// A number of the teacher's features in a line of knn.jsonl.
std::optional<double> feature_number(const Json& line, const char* key) {
  const Json* at = &line;
  for (const char* name : {"features", "teacher", key}) {
    if (!at->is_object() || !at->contains(name)) return std::nullopt;
    at = &(*at)[name];
  }
  return at->is_number() ? std::optional(at->get<double>()) : std::nullopt;
}

}  // namespace

const Series& RunHistory::series(const std::string& key) const {
  static const Series none;
  const auto at = steps.find(key);
  return at == steps.end() ? none : at->second;
}

std::string RunHistory::config_text(const std::string& key) const {
  for (const ConfigEntry& entry : config) {
    if (entry.key != key) continue;
    const bool quoted = entry.value.size() >= 2 && entry.value.front() == '"';
    return quoted ? entry.value.substr(1, entry.value.size() - 2) : entry.value;
  }
  return {};
}

std::optional<double> RunHistory::config_number(const std::string& key) const {
  const std::string value = config_text(key);
  double result = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), result);
  if (error != std::errc() || end != value.data() + value.size()) return std::nullopt;
  return result;
}

std::optional<KnnScore> RunHistory::best(const std::vector<KnnScore>& scores) {
  if (scores.empty()) return std::nullopt;
  return *std::max_element(scores.begin(), scores.end(),
                           [](const KnnScore& a, const KnnScore& b) { return a.top1 < b.top1; });
}

const KnnLine* RunHistory::untrained() const {
  const auto at = std::find_if(knn.begin(), knn.end(), [](const KnnLine& line) { return line.epoch < 0; });
  return at == knn.end() ? nullptr : &*at;
}

const HealthLine* RunHistory::end_of(std::size_t at) const {
  const HealthLine& line = health[at];
  if (line.state != "begins") return &line;
  for (std::size_t i = at + 1; i < health.size(); ++i) {
    if (health[i].kind == line.kind && health[i].state == "ends") return &health[i];
  }
  return nullptr;
}

namespace {

/// A run in a folder of runs, the first by name; or what one is.
std::string run_to_try(const std::filesystem::path& folder) {
  std::string first;
  std::error_code error;
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const std::string path = at->path().string();
    std::error_code none;
    if (std::filesystem::is_regular_file(at->path() / "log.jsonl", none) && (first.empty() || path < first))
      first = path;
  }
  return first.empty() ? "the output_dir of a training" : first;
}

}  // namespace

RunReader::RunReader(std::filesystem::path folder) {
  require(file_exists(folder / "log.jsonl"), "report", "{} holds no run: there is no log.jsonl; try {}",
          folder.string(), run_to_try(folder));
  history_.folder = std::move(folder);
  const auto absolute = std::filesystem::absolute(history_.folder).lexically_normal();
  history_.name = (absolute.has_filename() ? absolute : absolute.parent_path()).filename().string();
}

const RunHistory& RunReader::read() {
  RunHistory& run = history_;
  const auto follow = [&](const char* name, const std::function<void(const Json&)>& use) {
    std::uintmax_t& done = read_bytes_[name];
    done = read_lines(run.folder / name, done, [&](const std::string& line) {
      if (line.empty()) return;
      const Json json = parse_json(line);
      json.is_object() ? use(json) : static_cast<void>(++run.unreadable_lines);
    });
  };
  follow("log.jsonl", [&](const Json& line) {
    const std::int64_t step = whole(line, "step", -1), epoch = whole(line, "epoch", -1);
    if (step < 0 || step <= run.last_step) {
      ++run.unreadable_lines;
      return;
    }
    // The first step of an epoch tells how many came before.
    if (epoch > run.last_epoch && epoch > 0)
      run.steps_per_epoch = static_cast<double>(step) / static_cast<double>(epoch);
    run.last_step = step;
    run.skipped_steps += line.contains("skipped") ? 1 : 0;
    run.last_epoch = std::max(run.last_epoch, epoch);
    for (const auto& [key, value] : line.items()) {
      if (key == "step" || key == "epoch" || !(value.is_number() || value.is_null())) continue;
      if (run.steps.size() < kMaxKeys || run.steps.contains(key))
        run.steps[key].add(static_cast<double>(step), number(value));
    }
  });
  follow("knn.jsonl", [&](const Json& line) {
    run.knn.push_back({.epoch = whole(line, "epoch", 0),
                       .teacher = scores(line, "teacher"),
                       .student = scores(line, "student"),
                       .pixels = scores(line, "pixels"),
                       .pictures = whole(line, "pictures", 0),
                       .rank = feature_number(line, "rank"),
                       .spread = feature_number(line, "spread")});
  });
  follow("health.jsonl", [&](const Json& line) {
    if (run.health.size() == kMaxHealthLines) return;
    run.health.push_back({whole(line, "step", 0), whole(line, "epoch", 0), text(line, "kind"), text(line, "severity"),
                          text(line, "state"), text(line, "message"), text(line, "advice")});
  });
  follow("environment.jsonl", [&](const Json& line) {
    RunStart start{.step = whole(line, "step", 0), .facts = {}};
    for (const auto& [key, value] : line.items()) {
      if (key != "step" && start.facts.size() < kMaxKeys) start.facts[key] = text(line, key.c_str());
    }
    if (run.starts.size() < kMaxStarts) run.starts.push_back(std::move(start));
  });
  follow("film/epochs.jsonl", [&](const Json& line) {
    const auto ended = static_cast<double>(whole(line, "epoch", 0) + 1);
    for (const auto& [key, value] : line.items()) {
      if (value.is_number() && key != "step" && key != "epoch" && run.epochs.size() < kMaxKeys)
        run.epochs[key].add(ended, value.get<double>());
    }
    const auto names = line.find("broken_names");
    if (names == line.end() || !names->is_array()) return;
    for (const Json& name : *names) {
      if (!name.is_string() || run.broken.size() == kMaxBroken) continue;
      const auto text = name.get<std::string>();
      if (std::find(run.broken.begin(), run.broken.end(), text) == run.broken.end()) run.broken.push_back(text);
    }
  });
  read_config();
  return run;
}

void RunReader::read_config() {
  const std::map<std::string, std::string> values = config_values(history_.folder / "config.toml");
  history_.config.clear();
  for (const ConfigKey& key : config_keys()) {
    const auto at = values.find(std::string(key.name));
    history_.config.push_back({std::string(key.section), std::string(key.name),
                               at == values.end() ? std::string() : at->second, key.default_value});
  }
  for (const auto& [name, value] : values) {
    const bool known = std::any_of(history_.config.begin(), history_.config.end(),
                                   [&](const ConfigEntry& entry) { return entry.key == name; });
    if (!known) history_.config.push_back({"Other keys", name, value, ""});
  }
}

}  // namespace dino
