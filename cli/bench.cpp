#include "cli/bench.h"
#include "benchmarks/agreement.h"
#include "benchmarks/report.h"
#include "cli/machine.h"
#include "cli/output.h"
#include "engine/files.h"
#include "engine/machine.h"
#include "kernels/common/error.h"
#include "train/config.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <ctime>
#include <memory>
#include <optional>
#include <set>

namespace dino {
namespace {

constexpr int kSlower = 3;  // exit status

struct BenchOptions {
  std::vector<std::string> operations;
  std::string device = "auto";
  std::string shape = "vits16";
  std::int64_t images = 0;
  int threads = 0;
  int repetitions = 11;
  double seconds = 2;
  std::string json;
  std::string baseline;
  bool cpu_time = false;
  bool alone = false;
  bool list = false;
};

/// Whether the words name this benchmark: its operation or its group. Without words: every kernel.
bool chosen(const bench::Benchmark& benchmark, const std::vector<std::string>& words) {
  if (words.empty()) return !benchmark.whole_program;
  return std::any_of(words.begin(), words.end(), [&](const std::string& word) {
    return word == benchmark.operation || word == "all" || word == (benchmark.whole_program ? "program" : "kernels");
  });
}

void refuse_unknown_operations(const std::vector<std::string>& words, const std::vector<bench::Benchmark>& all) {
  std::vector<std::string_view> names{"all", "kernels", "program", "step"};
  for (const bench::Benchmark& benchmark : all) names.push_back(benchmark.operation);
  for (const std::string& word : words) {
    if (std::find(names.begin(), names.end(), word) != names.end()) continue;
    refuse_word(word, fmt::format("no benchmark has this name; try {}, or --list", nearest_name(word, names)));
  }
}

int list_benchmarks(const std::vector<bench::Benchmark>& all) {
  for (const bench::Benchmark& benchmark : all) {
    fmt::print("{:<16} {:<16} {}\n", benchmark.operation, benchmark.pass,
               benchmark.whole_program ? "program" : "kernels");
  }
  return 0;
}

int bench_operations(const BenchOptions& options) {
  const std::vector<bench::Benchmark> all = bench::benchmarks();
  if (options.list) return list_benchmarks(all);
  const std::unique_ptr<Context> context = open_machine(options.device, options.threads);
  const bool on_cpu = context->device() == Device::cpu;
  bench::Workload workload = bench::workload_of(options.shape);
  if (options.images > 0) workload.images = options.images;
  const bench::Conditions conditions{.version = DINO_VERSION,
                                     .date = fmt::format("{:%Y-%m-%d}", fmt::gmtime(std::time(nullptr))),
                                     .machine = on_cpu ? machine_name() : describe_device(*context, options.device),
                                     .device = on_cpu ? "cpu" : "cuda",
                                     .threads = omp_get_max_threads(),
                                     .clock = options.cpu_time ? "cpu"
                                              : on_cpu         ? "wall"
                                                               : "device",
                                     .shape = options.shape,
                                     .images = workload.images,
                                     .caches_bytes = bench::cache_sizes_bytes()};
  std::optional<bench::Baseline> baseline;
  if (!options.baseline.empty()) {
    baseline.emplace(nlohmann::json::parse(read_text_file(options.baseline, kMostTextBytes), nullptr, false),
                     conditions);
  }
  require(!options.cpu_time || on_cpu, "bench", "--cpu_time is for the CPU; got device cuda");
  bench::MeasureOptions how{.clock = options.cpu_time ? bench::Clock::cpu : bench::Clock::wall,
                            .repetitions = options.repetitions,
                            .most_seconds = options.seconds};
  if (!on_cpu) how.clock = bench::Clock::device;
  bench::ColdCache cold(*context);
  const bench::Roofline roofline = bench::measure_roofline(*context, cold, how);
  // With the report on the output, the table is progress.
  bench::Table table(options.json == "-" ? stderr : stdout, options.json == "-" && is_quiet());
  table.header(conditions, roofline, baseline.has_value());

  std::vector<bench::Row> rows;
  std::set<std::string> reasons;  // that were said
  int slower = 0;
  for (const bench::Benchmark& benchmark : all) {
    if (!chosen(benchmark, options.operations)) continue;
    for (const DType dtype : benchmark.dtypes) {
      bench::Bench bench(*context, workload, dtype);
      if (options.alone) bench.do_not_compare();
      bench::Prepared prepared = bench::prepare(benchmark, bench);
      if (options.alone) prepared.references.clear();
      // On the CPU, tests prove that the references compute the same; on a GPU they may never have run before.
      if (!on_cpu) bench::leave_out_wrong_references(prepared, context->stream(), dtype);
      for (const bench::LeftOut& left_out : prepared.left_out) {
        if (reasons.insert(left_out.reason).second) say("dino_cuda: without {}: {}", left_out.name, left_out.reason);
      }
      // The whole program waits for its GPU.
      if (!on_cpu) how.clock = benchmark.whole_program ? bench::Clock::wall : bench::Clock::device;
      const bench::Measurement measurement = bench::measure(prepared, context->stream(), cold, how);
      rows.push_back(bench::make_row(benchmark, prepared, dtype, roofline, measurement));
      table.row(rows.back(), baseline ? &*baseline : nullptr);
      if (baseline && baseline->compare(rows.back()).verdict == bench::Baseline::Verdict::slower) ++slower;
    }
  }
  const std::string json = bench::to_json(conditions, roofline, rows).dump(2) + "\n";
  if (options.json == "-") {
    fmt::print("{}", json);
  } else if (!options.json.empty()) {
    AtomicFile file(options.json);
    file.write(json);
    file.commit();
  }
  if (slower > 0) say("dino_cuda: {} of {} benchmarks are slower than the baseline", slower, rows.size());
  return slower > 0 ? kSlower : 0;
}

}  // namespace

void add_bench_command(Command app, Run& run) {
  const Command command = app.add_subcommand(
      "bench",
      "Measure speed on this machine: every kernel over cold caches at the sizes of a DINO step, against the "
      "machine's\n"
      "copy bandwidth and GEMM rate, against the unfused textbook and against the library (oneDNN; on a GPU cuDNN, "
      "where\n"
      "it is installed). The words choose operations (--list names them), `kernels` (the default), `program` (loader,\n"
      "inference, ...) or `all`.\n\n"
      "  dino_cuda bench                                  every kernel\n"
      "  dino_cuda bench layer_norm gelu --shape vitb16   two of them, for ViT-B/16\n"
      "  dino_cuda bench --json before.json\n"
      "  dino_cuda bench --baseline before.json           status 3 where something got slower\n"
      "  dino_cuda bench step --arch vit_small            the whole training step\n");
  auto options = std::make_shared<BenchOptions>();
  command.add_option("operations", options->operations, "what to measure").type_name("OPERATION");
  add_device_option(command, options->device);
  command.add_option("--shape", options->shape, "sizes of a step: vits16, vitb16 or tiny").capture_default_str();
  command.add_option("--images", options->images, "images of a step (default: the shape's, 4)").positive();
  command.add_option("--threads", options->threads, "CPU threads (default: OMP_NUM_THREADS, else every core)")
      .positive();
  command.add_option("--repetitions", options->repetitions, "calls that are timed; the median counts")
      .positive()
      .capture_default_str();
  command
      .add_option("--seconds", options->seconds,
                  "most time for a kernel or a reference, but at least three calls, one of a reference")
      .not_negative()
      .capture_default_str();
  command.add_flag("--cpu_time", options->cpu_time, "measure CPU time: steady on a busy machine, with --threads 1");
  command.add_flag("--alone", options->alone, "without the references");
  command
      .add_option("--json", options->json,
                  "write the report as JSON to a file; without one, or with -, print it instead of the table")
      .expected(0, 1)
      .default_str("-")
      .type_name("FILE");
  command.add_option("--baseline", options->baseline, "an earlier report to compare with").type_name("FILE");
  command.add_flag("--list", options->list, "name the benchmarks");
  command.require_subcommand(0, 1);
  add_bench_step_command(command, run);
  command.callback([command, options, &run] {
    if (command.has_subcommand()) return;
    refuse_unknown_operations(options->operations, bench::benchmarks());
    run = [options] { return bench_operations(*options); };
  });
}

}  // namespace dino
