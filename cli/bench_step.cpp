#include "benchmarks/measure.h"
#include "cli/bench.h"
#include "cli/config_options.h"
#include "cli/machine.h"
#include "cli/output.h"
#include "engine/communicators/connect.h"
#include "engine/machine.h"
#include "engine/progress.h"
#include "engine/random.h"
#include "kernels/common/error.h"
#include "models/json.h"
#include "train/precision.h"
#include "train/step_cost.h"
#include "train/student_teacher.h"

#include <fmt/format.h>
#include <omp.h>
#include <sys/resource.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dino {
namespace {

struct StepOptions {
  std::string config;
  int batch = 0;
  int steps = 5;
  int warmup = 2;
  bool json = false;
  bool operations = false;
  std::shared_ptr<ConfigOverrides> overrides = std::make_shared<ConfigOverrides>();
};

/// CPU time of all threads, and pages that the system had to provide, since the process began.
struct Usage {
  double cpu_s;
  double page_faults;

  static Usage now() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& t) {
      return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
    };
    return {seconds(usage.ru_utime) + seconds(usage.ru_stime), static_cast<double>(usage.ru_minflt)};
  }
};

/// Crops of noise, as the loader delivers them: the speed does not depend on what they show.
TrainingCrops random_crops(Context& context, const TrainConfig& config) {
  TrainingCrops crops;
  Random random(static_cast<std::uint64_t>(config.seed), RandomStream::crops);
  const auto add_group = [&](int views, int size_px) {
    if (views == 0) return;
    const Shape shape{views * config.batch_size_per_gpu, size_px, size_px, 3};
    std::vector<std::uint8_t> pixels(static_cast<std::size_t>(shape.size()));
    for (std::uint8_t& pixel : pixels) pixel = static_cast<std::uint8_t>(random.bits());
    crops.groups.push_back({context.from_host(ConstArray(pixels.data(), shape))});
  };
  add_group(2, config.global_crops_size);
  add_group(config.local_crops_number, config.local_crops_size);
  for (int b = 0; b < config.batch_size_per_gpu; ++b) crops.samples.push_back(static_cast<std::uint64_t>(b));
  return crops;
}

/// Medians over the measured steps.
struct StepMeasurement {
  double step_ms = 0, mean_step_ms = 0;
  double ahead_step_ms = 0;  // mean of a row of steps that the host did not wait for one by one; 0: not measured
  double cpu_s = 0;
  double page_faults = 0;
  PhaseTimes phases;
  double loss = 0;                           // of the last step
  std::vector<CountedOperation> operations;  // of all measured steps, where they were asked for
  double rest_ms = 0;                        // mean of a step, beside its operations; CPU time on the CPU
};

/// Equal operations of all phases of a step.
struct OperationTime {
  std::string_view group = {};
  std::string work = {}, size = {};
  double calls = 0, ms = 0, bytes = 0, flops = 0;  // of a step

  /// `143.1 GFLOP/s`, or `12.3 GB/s` where the operation does little with each byte.
  std::string rate() const {
    if (ms <= 0) return "";
    if (flops > 20 * bytes) return fmt::format("{:.1f} GFLOP/s", flops / ms * 1e-6);
    return fmt::format("{:.1f} GB/s", bytes / ms * 1e-6);
  }
};

void add_to(OperationTime& sum, const OperationTime& part) {
  sum.calls += part.calls;
  sum.ms += part.ms;
  sum.bytes += part.bytes;
  sum.flops += part.flops;
}

/// What each kind of operation took in a step, the longest first, and within it each of its sizes.
struct GroupTime {
  OperationTime total;
  std::vector<OperationTime> operations;
};

std::vector<GroupTime> group_times(const std::vector<CountedOperation>& counted, int steps) {
  std::map<std::string_view, GroupTime> groups;
  for (const CountedOperation& operation : counted) {
    const auto calls = static_cast<double>(operation.calls);
    OperationTime time{.group = operation.cost.group,
                       .work = operation.cost.work,
                       .size = operation.cost.size,
                       .calls = calls / steps,
                       .ms = std::accumulate(operation.ms.begin(), operation.ms.end(), 0.0) / steps,
                       .bytes = operation.cost.bytes * calls / steps,
                       .flops = operation.cost.flops * calls / steps};
    GroupTime& group = groups[time.group];
    group.total.group = time.group;
    add_to(group.total, time);
    const auto same = std::find_if(group.operations.begin(), group.operations.end(),
                                   [&](const auto& o) { return o.work == time.work && o.size == time.size; });
    same == group.operations.end() ? group.operations.push_back(std::move(time)) : add_to(*same, time);
  }
  std::vector<GroupTime> sorted;
  for (auto& [name, group] : groups) {
    std::stable_sort(group.operations.begin(), group.operations.end(),
                     [](const auto& a, const auto& b) { return a.ms > b.ms; });
    sorted.push_back(std::move(group));
  }
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const GroupTime& a, const GroupTime& b) { return a.total.ms > b.total.ms; });
  return sorted;
}

StepMeasurement measure_step(Context& context, StudentTeacher& networks, const TrainConfig& config,
                             const StepOptions& options) {
  const TrainingCrops crops = random_crops(context, config);
  std::vector<double> step_ms, cpu_s, page_faults;
  std::vector<PhaseTimes> phases;
  StepMeasurement result;
  std::optional<OperationCounter> counter;
  if (options.operations) {
    networks.time_phases();  // without recordings, whose operations would not be seen
    counter.emplace(context.stream(),
                    context.device() == Device::cpu ? OperationCounter::Timing::cpu : OperationCounter::Timing::wall);
  }
  double counted_ms = 0;
  const auto put_step = [&](int step) {
    const StepValues values{.lr = 1e-5,
                            .weight_decay = config.weight_decay,
                            .teacher_momentum = config.momentum_teacher,
                            .teacher_temp = config.teacher_temp,
                            .freeze_last_layer = false,
                            .step = static_cast<std::uint64_t>(step)};
    for (int i = 0; i < config.accumulation; ++i) networks.run_micro_batch(crops, values);
    networks.update(values);
  };
  const auto finish_step = [&] {
    StepResult done = networks.wait();
    require(!done.not_finite, "bench", "{} is not finite in step {}", done.not_finite.value_or(""), done.step);
    return done;
  };
  for (int step = 0; step < options.warmup + options.steps; ++step) {
    if (counter && step == options.warmup) counter->clear();
    const double counter_begin_ms = counter ? counter->now_ms() : 0;
    const auto begin = std::chrono::steady_clock::now();
    const Usage before = Usage::now();
    put_step(step);
    const StepResult done = finish_step();
    const Usage after = Usage::now();
    const auto end = std::chrono::steady_clock::now();
    if (step < options.warmup) continue;
    if (counter) counted_ms += counter->now_ms() - counter_begin_ms;
    step_ms.push_back(std::chrono::duration<double, std::milli>(end - begin).count());
    cpu_s.push_back(after.cpu_s - before.cpu_s);
    page_faults.push_back(after.page_faults - before.page_faults);
    phases.push_back(done.phases);
    result.loss = done.loss;
  }
  if (context.device() != Device::cpu && !counter) {
    // As the trainer goes: while the device is at a step, the host puts the next ones behind it.
    const auto begin = std::chrono::steady_clock::now();
    for (int step = 0; step < options.steps; ++step) {
      if (networks.pending() == StudentTeacher::kMaxPending) finish_step();
      put_step(options.warmup + options.steps + step);
    }
    while (networks.pending() > 0) finish_step();
    const auto end = std::chrono::steady_clock::now();
    result.ahead_step_ms = std::chrono::duration<double, std::milli>(end - begin).count() / options.steps;
  }
  const auto phase_median = [&](double PhaseTimes::*phase) {
    std::vector<double> values;
    for (const PhaseTimes& times : phases) values.push_back(times.*phase);
    return bench::median(values);
  };
  for (const auto phase : {&PhaseTimes::teacher_ms, &PhaseTimes::student_ms, &PhaseTimes::loss_ms,
                           &PhaseTimes::backward_ms, &PhaseTimes::update_ms}) {
    result.phases.*phase = phase_median(phase);
  }
  if (counter) {
    result.operations = counter->operations();
    result.rest_ms = std::max(0.0, counted_ms - counter->timed_ms() - counter->overhead_ms()) / options.steps;
  }
  result.step_ms = bench::median(step_ms);
  for (const double ms : step_ms) result.mean_step_ms += ms / static_cast<double>(step_ms.size());
  result.cpu_s = bench::median(cpu_s);
  result.page_faults = bench::median(page_faults);
  return result;
}

nlohmann::ordered_json operations_json(const StepMeasurement& m, const StepOptions& options) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const GroupTime& group : group_times(m.operations, options.steps)) {
    for (const OperationTime& o : group.operations) {
      rows.push_back({{"group", o.group},
                      {"work", o.work},
                      {"size", o.size},
                      {"calls", o.calls},
                      {"ms", o.ms},
                      {"bytes", o.bytes},
                      {"flops", o.flops}});
    }
  }
  return rows;
}

void print_operations(const StepMeasurement& m, const StepOptions& options, std::string_view clock) {
  const std::vector<GroupTime> groups = group_times(m.operations, options.steps);
  double total_ms = m.rest_ms;
  for (const GroupTime& group : groups) total_ms += group.total.ms;
  const auto row = [&](const std::string& name, const OperationTime& o) {
    fmt::print("{:<76} {:>6.0f} {:>9.2f} {:>5.1f} % {:>15}\n", name, o.calls, o.ms, 1e2 * o.ms / total_ms, o.rate());
  };
  fmt::print("\n{:<76} {:>6} {:>9} {:>7} {:>15}\n", "operations of a step", "calls", fmt::format("{} ms", clock),
             "share", "rate");
  for (const GroupTime& group : groups) {
    row(std::string(group.total.group), group.total);
    for (const OperationTime& o : group.operations) row(fmt::format("  {}: {}", o.work, o.size), o);
  }
  row("beside the operations", {.ms = m.rest_ms});
}

int bench_step(const StepOptions& options) {
  ConfigOverrides overrides = *options.overrides;
  if (options.batch > 0) {
    overrides.emplace_back("batch_size_per_gpu", std::to_string(options.batch));
  } else if (options.config.empty()) {
    overrides.emplace(overrides.begin(), "batch_size_per_gpu", "4");
  }
  const TrainConfig config = effective_config(options.config, overrides);
  const std::unique_ptr<Context> context = open_machine(config.device, config.threads);
  const DType compute_type = compute_type_for(config.precision, context->device());
  const bool by_nccl = config.communicator == "nccl";
  const std::unique_ptr<Communicator> communicator =
      by_nccl ? connect_one_rank_by_nccl(config.collective_timeout_s, *context) : std::make_unique<SingleProcess>();
  StudentTeacher networks(*context, *communicator, config, compute_type);
  const StepMeasurement m = measure_step(*context, networks, config, options);

  const bool on_cpu = context->device() == Device::cpu;
  const std::string machine = on_cpu ? machine_name() : describe_device(*context, config.device);
  // On a GPU the memory that counts is the GPU's, of which all is the arena's but a few buffers of fixed size.
  const std::size_t peak_bytes = on_cpu ? peak_resident_bytes() : context->arena().peak_bytes();
  const double images = static_cast<double>(config.batch_size_per_gpu) * config.accumulation;
  const double images_per_second = images / m.step_ms * 1e3;
  const char* precision = compute_type == DType::bfloat16 ? "bf16" : "fp32";
  const int threads = omp_get_max_threads();
  if (options.json) {
    nlohmann::ordered_json json = {{"implementation", "dino_cuda " DINO_VERSION},
                                   {"version", DINO_VERSION},
                                   {"machine", machine},
                                   {"device", on_cpu ? "cpu" : "cuda"},
                                   {"threads", threads},
                                   {"precision", precision},
                                   {"communicator", by_nccl ? "nccl" : "none"},
                                   {"arch", config.arch},
                                   {"depth", networks.vit().config().depth},
                                   {"patch_size", config.patch_size},
                                   {"batch", config.batch_size_per_gpu},
                                   {"accumulation", config.accumulation},
                                   {"global_crops_size", config.global_crops_size},
                                   {"local_crops_size", config.local_crops_size},
                                   {"local_crops_number", config.local_crops_number},
                                   {"out_dim", config.out_dim},
                                   {"optimizer", config.optimizer},
                                   {"drop_path_rate", config.drop_path_rate},
                                   {"steps", options.steps},
                                   {"images_per_second", images_per_second},
                                   {"step_ms", m.step_ms},
                                   {"mean_step_ms", m.mean_step_ms},
                                   {"phases_ms",
                                    {{"teacher", m.phases.teacher_ms},
                                     {"student", m.phases.student_ms},
                                     {"loss", m.phases.loss_ms},
                                     {"backward", m.phases.backward_ms},
                                     {"update", m.phases.update_ms}}},
                                   {"cpu_seconds_per_image", m.cpu_s / images},
                                   {"page_faults_per_step", m.page_faults},
                                   {"arena_peak_bytes", context->arena().peak_bytes()},
                                   {"peak_memory_bytes", peak_bytes},
                                   {"loss", m.loss}};
    if (m.ahead_step_ms > 0) {
      json["ahead_step_ms"] = m.ahead_step_ms;
      json["ahead_images_per_second"] = images / m.ahead_step_ms * 1e3;
    }
    if (options.operations) {
      json["operations"] = operations_json(m, options);
      json["rest_ms"] = m.rest_ms;
    }
    fmt::print("{}\n", json_text(json));
    return 0;
  }
  fmt::print("{}, {} thread{}, {}\n", machine, threads, threads == 1 ? "" : "s", precision);
  fmt::print("{} with patches of {} px, batch {} × {}, 2 crops of {} px and {} of {} px, K = {}\n\n", config.arch,
             config.patch_size, config.batch_size_per_gpu, config.accumulation, config.global_crops_size,
             config.local_crops_number, config.local_crops_size, config.out_dim);
  fmt::print("{:>10.2f} images/s\n{:>10.1f} ms a step (mean {:.1f})\n", images_per_second, m.step_ms, m.mean_step_ms);
  if (m.ahead_step_ms > 0)
    fmt::print("{:>10.2f} images/s in a row, as training goes\n", images / m.ahead_step_ms * 1e3);
  fmt::print("{:>10.1f} ms teacher\n{:>10.1f} ms student\n{:>10.1f} ms loss\n", m.phases.teacher_ms,
             m.phases.student_ms, m.phases.loss_ms);
  fmt::print("{:>10.1f} ms backward\n{:>10.1f} ms update\n", m.phases.backward_ms, m.phases.update_ms);
  fmt::print("{:>10.3f} CPU seconds an image\n{:>10.0f} page faults a step\n", m.cpu_s / images, m.page_faults);
  fmt::print("{:>10.2f} GiB at most, {:.2f} GiB of it tensors\n", static_cast<double>(peak_bytes) * 0x1p-30,
             static_cast<double>(context->arena().peak_bytes()) * 0x1p-30);
  if (options.operations) print_operations(m, options, context->device() == Device::cpu ? "CPU" : "wall");
  return 0;
}

}  // namespace

void add_bench_step_command(Command bench, Run& run) {
  const Command command = bench.add_subcommand(
      "step",
      "Measure the whole training step on crops of noise that are in memory already: teacher, student, loss, backward\n"
      "and update. Every key of the configuration is an option; lr is fixed and the last layer is trained.\n\n"
      "  dino_cuda bench step --arch vit_small --batch 4\n"
      "  dino_cuda bench step --arch vit_tiny --patch_size 8 --global_crops_size 64 --local_crops_size 32 --batch 32\n"
      "  dino_cuda bench step --config configs/scenes.toml --json\n"
      "  dino_cuda bench step --communicator nccl      on a GPU: sums over one rank by NCCL, for what it costs\n");
  auto options = std::make_shared<StepOptions>();
  command.add_option("--config", options->config, "TOML file; what it leaves out has the official default")
      .type_name("FILE");
  command.add_option("--batch", options->batch, "batch_size_per_gpu (default: the file's, else 4)").positive();
  command.add_option("--steps", options->steps, "steps that are measured; the median counts")
      .positive()
      .capture_default_str();
  command.add_option("--warmup", options->warmup, "steps before these").not_negative().capture_default_str();
  command.add_flag("--operations", options->operations,
                   "what each operation took, by kind and size; waits for the device after each");
  add_json_option(command, options->json);
  add_config_options(command, options->overrides);
  command.callback([options, &run] { run = [options] { return bench_step(*options); }; });
}

}  // namespace dino
