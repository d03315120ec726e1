#pragma once

#include "benchmarks/measure.h"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <string>
#include <vector>

namespace dino::bench {

/// A row of the report.
struct Row {
  std::string operation{}, pass{}, type{}, size{};
  double bytes = 0, flops = 0;
  bool bound_by_memory = true;
  double roofline_share = 0;  // least time / median; 0 where neither bytes nor flops are known
  Timing timing{};
  double items_per_s = 0;
  std::string item{};
  struct Reference {
    std::string name;
    Timing timing{};
    double speedup;  // how many times as long the reference takes
  };
  std::vector<Reference> references{};
  std::vector<LeftOut> left_out{};
  std::string note{};
};
Row make_row(const Benchmark& benchmark, const Prepared& prepared, DType dtype, const Roofline& roofline,
             const Measurement& measurement);

/// What a report is about; a baseline must agree in the machine and what follows it.
struct Conditions {
  std::string version, date;
  std::string machine, device;
  int threads = 0;
  std::string clock = "wall";
  std::string shape;
  std::int64_t images = 0;
  std::vector<std::size_t> caches_bytes;
};

nlohmann::ordered_json to_json(const Conditions& conditions, const Roofline& roofline, const std::vector<Row>& rows);

/// The rows of an earlier report to compare with.
class Baseline {
 public:
  /// Throws Error where `json` is no report or one from other conditions, naming the first that differs.
  Baseline(const nlohmann::json& json, const Conditions& conditions);

  enum class Verdict { unknown, same, faster, slower };
  struct Comparison {
    Verdict verdict = Verdict::unknown;
    double change = 0;  // of the median: 0.1 is 10 % slower
  };
  /// Faster or slower where the medians are more than 5 % apart and the ranges between the quartiles do not overlap.
  Comparison compare(const Row& row) const;

 private:
  nlohmann::json rows_;
};

/// Prints rows as they are measured, in colours on a terminal that wants them.
class Table {
 public:
  /// A silent one prints nothing.
  explicit Table(std::FILE* out, bool silent = false);
  void header(const Conditions& conditions, const Roofline& roofline, bool baseline);
  void row(const Row& row, const Baseline* baseline);

 private:
  std::string colour(const char* code, const std::string& text) const;

  std::FILE* out_;
  bool silent_;
  bool colours_;
  std::string last_operation_;
};

}  // namespace dino::bench
