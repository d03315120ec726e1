#include "benchmarks/report.h"

#include "engine/terminal.h"
#include "kernels/common/error.h"

#include <fmt/format.h>

namespace dino::bench {
namespace {

constexpr const char* kRed = "31";
constexpr const char* kGreen = "32";
constexpr const char* kYellow = "33";
constexpr const char* kFaint = "2";
constexpr const char* kBold = "1";

nlohmann::ordered_json to_json(const Timing& timing) {
  return {
      {"median_ms", timing.median_ms}, {"quartiles_ms", {timing.lower_ms, timing.upper_ms}}, {"calls", timing.calls}};
}

nlohmann::ordered_json to_json(const Row& row) {
  nlohmann::ordered_json json = {
      {"operation", row.operation}, {"pass", row.pass}, {"type", row.type}, {"size", row.size}};
  json.update(to_json(row.timing));
  const double s = 1e-3 * row.timing.median_ms;
  if (row.bytes > 0) {
    json["bytes"] = row.bytes;
    json["gb_per_s"] = 1e-9 * row.bytes / s;
  }
  if (row.flops > 0) {
    json["flops"] = row.flops;
    json["gflop_per_s"] = 1e-9 * row.flops / s;
  }
  if (row.roofline_share > 0) {
    json["bound"] = row.bound_by_memory ? "memory" : "compute";
    json["roofline_share"] = row.roofline_share;
  }
  if (row.items_per_s > 0) json[row.item + "_per_s"] = row.items_per_s;
  json["references"] = nlohmann::ordered_json::array();
  for (const Row::Reference& reference : row.references) {
    nlohmann::ordered_json entry = {{"name", reference.name}, {"speedup", reference.speedup}};
    entry.update(to_json(reference.timing));
    json["references"].push_back(entry);
  }
  for (const LeftOut& left_out : row.left_out) {
    json["left_out"].push_back({{"name", left_out.name}, {"reason", left_out.reason}});
  }
  if (!row.note.empty()) json["note"] = row.note;
  return json;
}

/// `12.3`, `1234`, `0.0123`: three digits that count.
std::string three_digits(double value) {
  if (value >= 100) return fmt::format("{:.0f}", value);
  if (value >= 10) return fmt::format("{:.1f}", value);
  if (value >= 1) return fmt::format("{:.2f}", value);
  return fmt::format("{:.3f}", value);
}

std::string rate_of(const Row& row) {
  const double s = 1e-3 * row.timing.median_ms;
  if (row.items_per_s > 0) return fmt::format("{} {}/s", three_digits(row.items_per_s), row.item);
  if (row.roofline_share == 0) return "";
  return row.bound_by_memory ? fmt::format("{} GB/s", three_digits(1e-9 * row.bytes / s))
                             : fmt::format("{} GFLOP/s", three_digits(1e-9 * row.flops / s));
}

}  // namespace

Row make_row(const Benchmark& benchmark, const Prepared& prepared, DType dtype, const Roofline& roofline,
             const Measurement& measurement) {
  Row row{.operation = std::string(benchmark.operation),
          .pass = std::string(benchmark.pass),
          .type = std::string(short_name(dtype)),
          .size = prepared.size,
          .bytes = prepared.bytes,
          .flops = prepared.flops,
          .timing = measurement.timing,
          .item = std::string(prepared.item),
          .left_out = prepared.left_out,
          .note = std::string(prepared.note)};
  if (row.bytes > 0 || row.flops > 0) {
    row.bound_by_memory = roofline.bound_by_memory(row.bytes, row.flops, dtype);
    row.roofline_share = roofline.least_ms(row.bytes, row.flops, dtype) / row.timing.median_ms;
  }
  row.items_per_s = 1e3 * prepared.items / row.timing.median_ms;
  for (std::size_t i = 0; i < prepared.references.size(); ++i) {
    const Timing& timing = measurement.references[i];
    row.references.push_back({prepared.references[i].name, timing, timing.median_ms / row.timing.median_ms});
  }
  return row;
}

nlohmann::ordered_json to_json(const Conditions& conditions, const Roofline& roofline, const std::vector<Row>& rows) {
  nlohmann::ordered_json json = {{"version", conditions.version},
                                 {"date", conditions.date},
                                 {"machine", conditions.machine},
                                 {"caches_bytes", conditions.caches_bytes},
                                 {"device", conditions.device},
                                 {"threads", conditions.threads},
                                 {"clock", conditions.clock},
                                 {"shape", conditions.shape},
                                 {"images", conditions.images},
                                 {"roofline",
                                  {{"copy_gb_per_s", 1e-9 * roofline.copy_bytes_per_s},
                                   {"fp32_gflop_per_s", 1e-9 * roofline.fp32_flops_per_s},
                                   {"bf16_gflop_per_s", 1e-9 * roofline.bf16_flops_per_s}}},
                                 {"results", nlohmann::ordered_json::array()}};
  for (const Row& row : rows) json["results"].push_back(to_json(row));
  return json;
}

Baseline::Baseline(const nlohmann::json& json, const Conditions& conditions) {
  const auto read = [&](const char* key) -> const nlohmann::json& {
    require(json.is_object() && json.contains(key), "bench",
            "the baseline is no report of this command; it has no {}; try one that --json wrote", key);
    return json.at(key);
  };
  const auto same = [&](const char* key, const nlohmann::json& here) {
    require(read(key) == here, "bench", "the baseline was measured under other conditions; got {} {}, expected {}", key,
            json.at(key).dump(), here.dump());
  };
  same("machine", conditions.machine);
  same("device", conditions.device);
  same("threads", conditions.threads);
  same("clock", conditions.clock);
  same("shape", conditions.shape);
  same("images", conditions.images);
  rows_ = read("results");
  require(rows_.is_array(), "bench", "the baseline is no report of this command; its results are no list");
}

Baseline::Comparison Baseline::compare(const Row& row) const {
  constexpr double kLeastChange = 0.05;
  for (const auto& old : rows_) {
    if (!old.is_object() || old.value("operation", "") != row.operation || old.value("pass", "") != row.pass ||
        old.value("type", "") != row.type || old.value("size", "") != row.size) {
      continue;
    }
    require(old.contains("median_ms") && old.at("median_ms").is_number() && old.contains("quartiles_ms") &&
                old.at("quartiles_ms").is_array() && old.at("quartiles_ms").size() == 2 &&
                old.at("quartiles_ms")[0].is_number() && old.at("quartiles_ms")[1].is_number(),
            "bench", "the baseline has no times for {} {}", row.operation, row.pass);
    const double median_ms = old.at("median_ms"), lower_ms = old.at("quartiles_ms")[0],
                 upper_ms = old.at("quartiles_ms")[1];
    Comparison comparison{Verdict::same, row.timing.median_ms / median_ms - 1};
    if (comparison.change > kLeastChange && row.timing.lower_ms > upper_ms) comparison.verdict = Verdict::slower;
    if (comparison.change < -kLeastChange && row.timing.upper_ms < lower_ms) comparison.verdict = Verdict::faster;
    return comparison;
  }
  return {};
}

Table::Table(std::FILE* out, bool silent) : out_(out), silent_(silent), colours_(shows_colors(out)) {}

std::string Table::colour(const char* code, const std::string& text) const {
  return colours_ ? fmt::format("\033[{}m{}\033[0m", code, text) : text;
}

void Table::header(const Conditions& conditions, const Roofline& roofline, bool baseline) {
  if (silent_) return;
  std::string caches;
  for (const std::size_t size : conditions.caches_bytes) {
    caches += (caches.empty() ? ", caches " : " + ") +
              (size < (1U << 20) ? fmt::format("{} KiB", size >> 10) : fmt::format("{} MiB", size >> 20));
  }
  fmt::print(out_, "{}, {}, {} threads{}{}\n", conditions.machine, conditions.device, conditions.threads, caches,
             conditions.clock == "cpu"      ? "; CPU time"
             : conditions.clock == "device" ? "; time of the device"
                                            : "");
  fmt::print(out_, "roofline: copy {} GB/s, product {} GFLOP/s in fp32 and {} in bf16; shape {}, {} images\n\n",
             three_digits(1e-9 * roofline.copy_bytes_per_s), three_digits(1e-9 * roofline.fp32_flops_per_s),
             three_digits(1e-9 * roofline.bf16_flops_per_s), conditions.shape, conditions.images);
  fmt::print(out_, "{}\n",
             colour(kBold, fmt::format("{:<16} {:<16} {:<5} {:<24} {:>9} {:>6} {:>16} {:>9}  {}{}", "operation", "pass",
                                       "type", "size", "ms", "±", "rate", "roofline", baseline ? "baseline  " : "",
                                       "reference takes")));
}

void Table::row(const Row& row, const Baseline* baseline) {
  if (silent_) return;
  const bool first = row.operation != last_operation_;
  last_operation_ = row.operation;
  std::string line = fmt::format("{:<16} {:<16} {:<5} {:<24} {:>9} {} {:>16} ", first ? row.operation : "", row.pass,
                                 row.type, row.size, three_digits(row.timing.median_ms),
                                 colour(kFaint, fmt::format("{:>5.0f}%", 100 * row.timing.spread())), rate_of(row));
  if (row.roofline_share > 0) {
    const char* code = row.roofline_share >= 0.85 ? kGreen : row.roofline_share >= 0.5 ? kYellow : kRed;
    line += colour(code, fmt::format("{:>8.0f}%", 100 * row.roofline_share));
  } else {
    line += fmt::format("{:>9}", "");
  }
  line += "  ";
  if (baseline != nullptr) {
    const Baseline::Comparison comparison = baseline->compare(row);
    switch (comparison.verdict) {
      case Baseline::Verdict::unknown: line += fmt::format("{:<10}", "new"); break;
      case Baseline::Verdict::same: line += colour(kFaint, fmt::format("{:<10}", "same")); break;
      case Baseline::Verdict::faster:
        line += colour(kGreen, fmt::format("{:<10}", fmt::format("{:+.0f}%", 100 * comparison.change)));
        break;
      case Baseline::Verdict::slower:
        line += colour(kRed, fmt::format("{:<10}", fmt::format("{:+.0f}% SLOW", 100 * comparison.change)));
        break;
    }
  }
  for (std::size_t i = 0; i < row.references.size(); ++i) {
    const Row::Reference& reference = row.references[i];
    line +=
        fmt::format("{}{} {}", i == 0 ? "" : ", ",
                    colour(reference.speedup >= 1 ? kGreen : kRed, fmt::format("×{}", three_digits(reference.speedup))),
                    reference.name);
  }
  if (!row.note.empty()) line += colour(kFaint, (row.references.empty() ? "" : ", ") + row.note);
  while (line.ends_with(' ')) line.pop_back();
  fmt::print(out_, "{}\n", line);
  std::fflush(out_);
}

}  // namespace dino::bench
