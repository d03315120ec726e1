#pragma once

#include "visualize/report/series.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace dino {

/// Share in percent of the pictures whose class k neighbours named.
struct KnnScore {
  int k = 0;
  double top1 = 0, top5 = 0;
};

/// A line of knn.jsonl.
struct KnnLine {
  std::int64_t epoch = 0;  // the one that had just ended; -1: before training
  std::vector<KnnScore> teacher, student;
  std::vector<KnnScore> pixels;        // of the bare pixels, where they were measured
  std::int64_t pictures = 0;           // that were classified; 0: not said
  std::optional<double> rank, spread;  // of the teacher's features
};

/// A line of health.jsonl (docs/logs.md): something that begins, ends, or happened once.
struct HealthLine {
  std::int64_t step = 0, epoch = 0;
  std::string kind, severity, state, message, advice;
};

/// A key of the configuration, with its values as TOML.
struct ConfigEntry {
  std::string section, key, value, default_value;  // empty: the run does not say, or this version has no such key
  bool changed() const { return !value.empty() && value != default_value; }
};

/// Where and when a run was started, or gone on with: a line of environment.jsonl.
struct RunStart {
  std::int64_t step = 0;
  std::map<std::string, std::string> facts;
};

/// What the files of a run say. Nothing in it is trusted: texts may hold anything.
struct RunHistory {
  std::filesystem::path folder;
  std::string name;                     // of the folder
  std::map<std::string, Series> steps;  // every number of log.jsonl by its key, over the steps
  std::vector<KnnLine> knn;
  std::vector<HealthLine> health;
  std::vector<ConfigEntry> config;
  std::vector<RunStart> starts;
  std::map<std::string, Series> epochs;  // numbers of film/epochs.jsonl, over the epochs that had ended
  std::vector<std::string> broken;       // pictures that could not be read, the first few
  std::int64_t last_step = -1, last_epoch = -1;
  double steps_per_epoch = 0;         // 0: not known yet
  std::int64_t skipped_steps = 0;     // whose loss or gradient was not finite
  std::int64_t unreadable_lines = 0;  // torn, or no JSON

  /// Values of a key; an empty series where there are none.
  const Series& series(const std::string& key) const;
  /// Value of a key of the configuration, without quotes.
  std::string config_text(const std::string& key) const;
  std::optional<double> config_number(const std::string& key) const;
  /// Largest top-1 of the teacher, or the student, in a line; none where it has none.
  static std::optional<KnnScore> best(const std::vector<KnnScore>& scores);
  /// The line of the untrained networks.
  const KnnLine* untrained() const;
  /// Where finding `at` of health ended, or null: it goes on. Itself where it happened once.
  const HealthLine* end_of(std::size_t at) const;
};

/// Follows the files of a run: each read() takes in what was appended since the last. Files may be missing, lines torn
/// or of other versions; logs are read as streams, so that their length costs time but no memory.
class RunReader {
 public:
  /// Throws Error where the folder holds no log.jsonl.
  explicit RunReader(std::filesystem::path folder);
  const RunHistory& read();

 private:
  void read_config();

  RunHistory history_;
  std::map<std::string, std::uintmax_t> read_bytes_;  // by file
};

}  // namespace dino
