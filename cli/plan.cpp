#include "cli/accelerators.h"
#include "cli/commands.h"
#include "cli/config_options.h"
#include "cli/machine.h"
#include "cli/output.h"
#include "cli/rates.h"
#include "cli/run_facts.h"
#include "data/dataset.h"
#include "data/sampler.h"
#include "engine/files.h"
#include "engine/host_memory.h"
#include "engine/rehearsal.h"
#include "train/precision.h"
#include "train/step_cost.h"
#include "train/training_data.h"

#include <fmt/format.h>
#include <omp.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <memory>
#include <optional>
#include <thread>

namespace dino {
namespace {

struct PlanOptions {
  std::string config;
  std::string device;  // --for
  std::string rates;
  std::int64_t images = 0;
  bool cpu_time = false;
  bool no_speed = false;
  bool json = false;
  std::shared_ptr<ConfigOverrides> overrides = std::make_shared<ConfigOverrides>();
};

/// What is planned for, and where its numbers come from.
struct Target {
  Device device = Device::cpu;
  std::string title;
  const Accelerator* published = nullptr;
  MemoryLimits limits;
  std::string limits_source;
  std::unique_ptr<Context> context;  // null where the device is not here
};

struct Parameters {
  std::int64_t backbone = 0, head = 0;
};

/// What the loader needs for an image, on one thread.
struct LoaderTime {
  double ms_per_image = 0;
  std::int64_t images = 0;  // that were measured
};

struct RunTime {
  std::int64_t steps_per_epoch = 0;
  std::int64_t evaluations = 0;
  double evaluation_s = 0;
  double step_s = 0;  // with the data
  double total_s = 0;
};

struct Plan {
  TrainConfig config;
  Target target;
  DType compute_type = DType::float32;
  Parameters parameters;
  std::vector<CountedOperation> operations;
  MemoryPlan memory;
  bool fits = false;
  int largest_batch = 0;
  std::optional<std::pair<int, int>> batch_and_accumulation;  // where it does not fit
  std::string speed_source;                                   // empty: no speed is known
  bool speed_is_bound = false;                                // a roofline: at most this fast
  StepTime step;
  std::optional<LoaderTime> loader;
  double images_per_second = 0;  // of a training run
  std::int64_t images = 0;       // 0: unknown
  KnnPictures knn;
  std::optional<RunTime> run;
  std::size_t checkpoint_bytes = 0, disk_bytes = 0;
  std::int64_t checkpoints = 0;
};

Target find_target(const PlanOptions& options, const TrainConfig& config) {
  Target target;
  if (!options.device.empty() && options.device != "cpu") {
    target.published = &accelerator_of(options.device);
    target.device = Device::cuda;
    target.title = target.published->title;
    target.limits.device_bytes = tensor_memory_bytes(*target.published);
    target.limits_source = "published memory";
    return target;
  }
  const std::string device = options.device.empty() ? config.device : options.device;
  target.context = open_machine(device, config.threads);
  target.device = target.context->device();
  const int threads = omp_get_max_threads();
  target.title = target.device == Device::cpu
                     ? fmt::format("{}, {} thread{}", machine_name(), threads, threads == 1 ? "" : "s")
                     : describe_device(*target.context, device);
  SingleProcess alone;
  target.limits = memory_limits(*target.context, alone);
  target.limits_source =
      target.device == Device::cpu ? host_memory().limit : "free memory of the GPU, the program's share";
  return target;
}

Parameters count_parameters(const TrainConfig& config) {
  ParameterLayout layout;
  const Vit vit(layout, vit_config(config));
  Parameters parameters{.backbone = layout.parameter_count()};
  const DinoHead head(layout, head_config(config));
  parameters.head = layout.parameter_count() - parameters.backbone;
  return parameters;
}

double process_cpu_ms() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return 1e3 * static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_nsec);
}

/// Loads a few batches on one thread, as the training would.
LoaderTime measure_loader(const TrainConfig& config, Device device, const ImageSource& images) {
  constexpr double kEnough_ms = 1000;
  constexpr std::int64_t kMost = 256;
  const int batch = static_cast<int>(std::clamp<std::int64_t>(images.size() / 2, 1, 8));
  Loader loader(images, {.size = images.size(), .batch = batch, .seed = static_cast<std::uint64_t>(config.seed)},
                training_views(config),
                {.threads = 1,
                 .prefetch_batches = 1,
                 // The CPU makes the crops in both cases.
                 .augment = device == Device::cpu ? AugmentOn::host : augment_on(config, device)});
  Batch loaded;
  loader.next(loaded);
  loader.next(loaded);
  LoaderTime time;
  const double begin_ms = process_cpu_ms();
  double spent_ms = 0;
  while (spent_ms < kEnough_ms && time.images < kMost) {
    loader.next(loaded);
    time.images += batch;
    spent_ms = process_cpu_ms() - begin_ms;
  }
  time.ms_per_image = spent_ms / static_cast<double>(time.images);
  return time;
}

/// How long a step takes with the loader at work beside it.
double step_with_data_ms(const Plan& plan) {
  const double step_ms = plan.step.total_ms;
  if (!plan.loader) return step_ms;
  const double images = static_cast<double>(plan.config.batch_size_per_gpu) * plan.config.accumulation;
  const double loader_ms = plan.loader->ms_per_image * images;
  const double processors = std::max(1U, std::thread::hardware_concurrency());
  const double workers =
      std::min(processors, plan.config.num_workers > 0 ? static_cast<double>(plan.config.num_workers) : processors);
  if (plan.target.device == Device::cuda) return std::max(step_ms, loader_ms / workers);
  // Both want the same processors; what computes leaves some of them idle where it has fewer threads.
  const double idle = std::max(0.0, processors - omp_get_max_threads());
  return step_ms + std::max(0.0, loader_ms - idle * step_ms) / processors;
}

std::int64_t steps_per_epoch(const Plan& plan) {
  return plan.images / plan.config.batch_size_per_gpu / plan.config.accumulation;
}

double operations_ms(const std::vector<CountedOperation>& operations, const Speeds& speeds) {
  double ms = 0;
  for (const CountedOperation& operation : operations) {
    ms += static_cast<double>(operation.calls) * speeds.ms_of(operation);
  }
  return ms;
}

/// One evaluation by k-NN, student and teacher, without decoding.
double evaluation_s(const Plan& plan, const Speeds& speeds) {
  const std::unique_ptr<Context> context = make_rehearsal_context(plan.target.device);
  SingleProcess communicator;
  StudentTeacher networks(*context, communicator, plan.config, plan.compute_type);
  OperationCounter counter(context->stream(), OperationCounter::Timing::none);
  rehearse_features(*context, networks, plan.config);
  const double batches = static_cast<double>(plan.knn.known + plan.knn.asked) / feature_batch();
  const double features_ms = batches * operations_ms(counter.operations(), speeds);
  counter.clear();
  rehearse_search(*context, networks, plan.config, plan.knn);
  return 2e-3 * (features_ms + operations_ms(counter.operations(), speeds));
}

void predict_speed(Plan& plan, const PlanOptions& options, const RunFacts& facts, const ImageSource* images) {
  std::unique_ptr<Speeds> speeds;
  if (!options.rates.empty()) {
    auto reported = std::make_unique<ReportedSpeeds>(read_text_file(options.rates, kMostTextBytes));
    plan.speed_source = fmt::format("rates of {} ({})", options.rates, reported->machine());
    speeds = std::move(reported);
  } else if (plan.target.published != nullptr) {
    const Accelerator& a = *plan.target.published;
    plan.speed_source = fmt::format("published figures, not measured: {}", a.source);
    plan.speed_is_bound = true;
    speeds = std::make_unique<RooflineSpeeds>(a.bytes_per_s, a.fp32_flops_per_s, a.bf16_flops_per_s);
  } else {
    const ProfileOptions profile{
        .timing = options.cpu_time ? OperationCounter::Timing::cpu : OperationCounter::Timing::wall,
        .most_flops = plan.target.device == Device::cpu ? 1.5e12 : 1e15,
        .memory = plan.target.limits};
    say("measuring a few steps of this configuration; --no_speed leaves that out");
    speeds = std::make_unique<MeasuredSpeeds>(measure_speeds(*plan.target.context, plan.config, facts, profile));
    plan.speed_source = options.cpu_time ? "measured here, CPU time" : "measured here";
  }
  plan.step = predict_step(plan.operations, *speeds, plan.config);
  if (images != nullptr && plan.target.context != nullptr) {
    plan.loader = measure_loader(plan.config, plan.target.device, *images);
  }
  const double global = static_cast<double>(plan.config.batch_size_per_gpu) * plan.config.accumulation;
  const double step_ms = step_with_data_ms(plan);
  plan.images_per_second = 1e3 * global / step_ms;
  if (steps_per_epoch(plan) == 0) return;
  RunTime run;
  run.steps_per_epoch = steps_per_epoch(plan);
  run.step_s = 1e-3 * step_ms;
  if (plan.config.knn_every > 0) {
    // The untrained networks, every n-th epoch, and the last.
    const std::int64_t every = plan.config.knn_every;
    run.evaluations = 1 + (plan.config.epochs + every - 1) / every;
    run.evaluation_s = evaluation_s(plan, *speeds);
  }
  run.total_s = static_cast<double>(run.steps_per_epoch * plan.config.epochs) * run.step_s +
                static_cast<double>(run.evaluations) * run.evaluation_s;
  plan.run = run;
}

Plan make_plan(const PlanOptions& options) {
  Plan plan;
  plan.config = effective_config(options.config, *options.overrides);
  const TrainConfig& config = plan.config;
  plan.target = find_target(options, config);
  plan.compute_type = compute_type_for(config.precision, plan.target.device);
  plan.parameters = count_parameters(config);
  std::unique_ptr<Dataset> images;
  if (!config.data_path.empty() && std::filesystem::exists(config.data_path)) images = open_dataset(config.data_path);
  plan.images = options.images > 0 ? options.images : images ? images->size() : 0;
  plan.knn = most_knn_pictures(config, plan.images);
  if (images && config.knn_every > 0) plan.knn = count_knn_pictures(config);
  const RunFacts facts = run_facts(config, plan.target.device, plan.compute_type, images.get(), plan.knn);
  plan.operations = step_operations(config, plan.target.device, plan.compute_type);
  plan.memory = plan_memory(config, facts);
  plan.fits = fits(plan.memory, plan.target.device, plan.target.limits);
  plan.largest_batch = largest_batch(config, facts, plan.target.limits);
  if (!plan.fits) plan.batch_and_accumulation = same_global_batch(config, facts, plan.target.limits);
  plan.checkpoint_bytes = plan.memory.checkpoint_file;
  // last, the one before, and their successor beside them while that is written; best; the healthy one; every n-th
  // epoch.
  plan.checkpoints = 3 + (config.rollbacks > 0 ? 1 : 0) + (config.knn_every > 0 ? 1 : 0) +
                     (config.saveckp_freq > 0 ? config.epochs / config.saveckp_freq : 0);
  plan.disk_bytes = static_cast<std::size_t>(plan.checkpoints) * plan.checkpoint_bytes;
  if (!options.no_speed) predict_speed(plan, options, facts, images.get());
  return plan;
}

std::string format_time(double seconds) {
  if (seconds < 120) return fmt::format("{:.0f} s", seconds);
  if (seconds < 2 * 3600) return fmt::format("{:.0f} min", seconds / 60);
  if (seconds < 72 * 3600) return fmt::format("{:.1f} hours", seconds / 3600);
  return fmt::format("{:.1f} days", seconds / 86400);
}

std::string format_bytes(std::size_t bytes) { return dino::format_bytes(static_cast<double>(bytes)); }

/// `4.27 T`, `312 G`
std::string with_prefix(double value) {
  for (const auto& [factor, name] : {std::pair{1e15, "P"}, {1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}}) {
    if (value >= factor) return fmt::format("{:.2f} {}", value / factor, name);
  }
  return fmt::format("{:.0f} ", value);
}

struct Sum {
  double flops = 0, bytes = 0, calls = 0;
  void add(const CountedOperation& operation) {
    const auto n = static_cast<double>(operation.calls);
    flops += n * operation.cost.flops;
    bytes += n * operation.cost.bytes;
    calls += n;
  }
};

std::vector<std::pair<std::string, Sum>> sums_by_phase(const Plan& plan) {
  std::vector<std::pair<std::string, Sum>> sums;
  for (const std::string_view phase : kStepPhases) sums.emplace_back(phase, Sum());
  for (const CountedOperation& operation : plan.operations) {
    sums[static_cast<std::size_t>(operation.phase)].second.add(operation);
  }
  return sums;
}

std::vector<std::pair<std::string, Sum>> sums_by_group(const Plan& plan) {
  std::vector<std::pair<std::string, Sum>> sums;
  for (const CountedOperation& operation : plan.operations) {
    auto at =
        std::find_if(sums.begin(), sums.end(), [&](const auto& entry) { return entry.first == operation.cost.group; });
    if (at == sums.end()) at = sums.insert(sums.end(), {std::string(operation.cost.group), Sum()});
    at->second.add(operation);
  }
  std::stable_sort(sums.begin(), sums.end(),
                   [](const auto& a, const auto& b) { return a.second.flops > b.second.flops; });
  return sums;
}

double group_ms(const Plan& plan, const std::string& group) {
  for (const auto& [name, ms] : plan.step.group_ms) {
    if (name == group) return ms;
  }
  return 0;
}

void print_work(const Plan& plan) {
  const bool timed = !plan.speed_source.empty();
  const double images = static_cast<double>(plan.config.batch_size_per_gpu) * plan.config.accumulation;
  const auto row = [&](const std::string& name, const Sum& sum, double ms) {
    fmt::print("  {:<20}{:>12}FLOP {:>11}B{}\n", name, with_prefix(sum.flops), with_prefix(sum.bytes),
               timed ? fmt::format("{:>12.1f} ms", ms) : std::string());
  };
  const Work work = total_work(plan.operations);
  fmt::print("\nA step of {:.0f} images: {}FLOP, {}B through memory ({}FLOP an image)\n", images,
             with_prefix(work.flops), with_prefix(work.bytes), with_prefix(work.flops / images));
  const auto phases = sums_by_phase(plan);
  for (std::size_t i = 0; i < phases.size(); ++i) row(phases[i].first, phases[i].second, plan.step.phase_ms[i]);
  fmt::print("  by kind\n");
  for (const auto& [group, sum] : sums_by_group(plan)) row(group, sum, group_ms(plan, group));
  if (timed && !plan.speed_is_bound) {
    fmt::print("  {:<20}{:>17} {:>12}{:>12.1f} ms\n", "all else", "", "", plan.step.rest_ms);
  }
}

void print_memory(const Plan& plan) {
  const bool on_cpu = plan.target.device == Device::cpu;
  const MemoryPlan& m = plan.memory;
  fmt::print("\nMemory\n");
  const auto row = [](std::string_view name, std::size_t bytes, std::string_view note) {
    if (bytes > 0) fmt::print("  {:<20}{:>12}  {}\n", name, format_bytes(bytes), note);
  };
  row("weights", m.weights, "student");
  row("teacher", m.teacher, "");
  row("gradient", m.gradient, "");
  row("optimiser", m.optimizer, "moments");
  row("tables", m.tables, "center, norms");
  row("crops", m.crops, "");
  row("activations", m.activations, "and their gradients, logits included");
  row("evaluation", m.evaluation, "of features, k-NN; beyond a step");
  row("gaps", m.gaps, "between blocks");
  if (!on_cpu) {
    fmt::print("  {:<20}{:>12}  {} are there for tensors ({})\n", "on the device", format_bytes(m.device_bytes()),
               format_bytes(plan.target.limits.device_bytes), plan.target.limits_source);
  }
  row("loader", m.loader, "batches ahead, decoding");
  row("checkpoint", m.checkpoint, "while one is written");
  row("program", m.program,
      on_cpu ? "code, libraries, scratch memory" : "code, CUDA's runtime, pinned buffers; a guess");
  if (on_cpu) {
    fmt::print("  {:<20}{:>12}  {} are there ({})\n", "in all", format_bytes(m.device_bytes() + m.host_bytes()),
               format_bytes(plan.target.limits.host_bytes), plan.target.limits_source);
  } else {
    fmt::print("  {:<20}{:>12}  of the machine\n", "on the host", format_bytes(m.host_bytes()));
  }
  const std::int64_t global = std::int64_t{plan.config.batch_size_per_gpu} * plan.config.accumulation;
  fmt::print("  largest batch        {:>11}  with accumulation {}\n", plan.largest_batch, plan.config.accumulation);
  if (plan.fits) return;
  if (plan.batch_and_accumulation) {
    fmt::print("  IT DOES NOT FIT. --batch_size_per_gpu {} --accumulation {} does, and keeps the global batch of {}\n",
               plan.batch_and_accumulation->first, plan.batch_and_accumulation->second, global);
  } else {
    fmt::print("  IT DOES NOT FIT, with no batch. Try a smaller model, or smaller or fewer crops\n");
  }
}

void print_plan(const Plan& plan) {
  const TrainConfig& c = plan.config;
  fmt::print("{}\n", plan.target.title);
  fmt::print("{} with patches of {} px, batch {} × {}, 2 crops of {} px and {} of {} px, K = {}, {}\n", c.arch,
             c.patch_size, c.batch_size_per_gpu, c.accumulation, c.global_crops_size, c.local_crops_number,
             c.local_crops_size, c.out_dim, plan.compute_type == DType::bfloat16 ? "bf16" : "fp32");
  fmt::print("{} parameters: {} in the backbone, {} in the head\n",
             with_prefix(static_cast<double>(plan.parameters.backbone + plan.parameters.head)),
             with_prefix(static_cast<double>(plan.parameters.backbone)),
             with_prefix(static_cast<double>(plan.parameters.head)));
  print_work(plan);
  print_memory(plan);
  if (!plan.speed_source.empty()) {
    fmt::print("\nSpeed ({})\n", plan.speed_source);
    if (plan.loader) {
      fmt::print("  data                {:>9.2f} ms an image and thread, measured on {} images\n",
                 plan.loader->ms_per_image, plan.loader->images);
    } else {
      fmt::print("  data                  not counted: {}\n",
                 plan.target.context ? "there is no data_path here" : "the machine is not here");
    }
    fmt::print("  {:<20}{:>9.4g} images/s\n", plan.speed_is_bound ? "at most" : "training", plan.images_per_second);
  }
  fmt::print("\nThe run\n");
  if (plan.images > 0 && steps_per_epoch(plan) == 0) {
    fmt::print("  {} images make no step of {} × {}: train refuses them. Try a smaller batch\n", plan.images,
               c.batch_size_per_gpu, c.accumulation);
  } else if (plan.run) {
    const RunTime& run = *plan.run;
    fmt::print("  {} images, {} epochs of {} steps: {}{}\n", plan.images, c.epochs, run.steps_per_epoch,
               plan.speed_is_bound ? "at least " : "", format_time(run.total_s));
    if (run.evaluations > 0) {
      fmt::print("  of it {} evaluations of {}\n", run.evaluations, format_time(run.evaluation_s));
    }
  } else if (plan.images == 0) {
    fmt::print("  unknown number of images; try --data_path FOLDER, or --images N\n");
  }
  fmt::print("  disk: at most {} checkpoints of {}, {}\n", plan.checkpoints, format_bytes(plan.checkpoint_bytes),
             format_bytes(plan.disk_bytes));
}

nlohmann::ordered_json to_json(const Sum& sum) {
  return {{"calls", sum.calls}, {"flops", sum.flops}, {"bytes", sum.bytes}};
}

nlohmann::ordered_json to_json(const Plan& plan) {
  nlohmann::ordered_json json = {
      {"version", DINO_VERSION},
      {"device", plan.target.device == Device::cpu ? "cpu" : "cuda"},
      {"title", plan.target.title},
      {"precision", plan.compute_type == DType::bfloat16 ? "bf16" : "fp32"},
      {"parameters", {{"backbone", plan.parameters.backbone}, {"head", plan.parameters.head}}},
      {"batch_size_per_gpu", plan.config.batch_size_per_gpu},
      {"accumulation", plan.config.accumulation}};
  for (const auto& [name, sum] : sums_by_phase(plan)) json["phases"][name] = to_json(sum);
  for (const auto& [name, sum] : sums_by_group(plan)) json["kinds"][name] = to_json(sum);
  for (const auto& [name, bytes] : kinds_of(plan.memory)) json["memory_bytes"][name] = bytes;
  json["device_bytes"] = plan.memory.device_bytes();
  json["arena_peak_bytes"] = plan.memory.arena_peak;
  json["host_bytes"] = plan.memory.host_bytes();
  json["limit_bytes"] =
      plan.target.device == Device::cpu ? plan.target.limits.host_bytes : plan.target.limits.device_bytes;
  json["fits"] = plan.fits;
  json["largest_batch"] = plan.largest_batch;
  if (plan.batch_and_accumulation) {
    json["proposal"] = {{"batch_size_per_gpu", plan.batch_and_accumulation->first},
                        {"accumulation", plan.batch_and_accumulation->second}};
  }
  if (!plan.speed_source.empty()) {
    json["speed"] = {{"source", plan.speed_source},
                     {"is_bound", plan.speed_is_bound},
                     {"step_ms", plan.step.total_ms},
                     {"images_per_second", plan.images_per_second}};
    for (std::size_t i = 0; i < kStepPhases.size(); ++i) {
      json["speed"]["phases_ms"][std::string(kStepPhases[i])] = plan.step.phase_ms[i];
    }
    for (const auto& [name, ms] : plan.step.group_ms) json["speed"]["kinds_ms"][name] = ms;
    json["speed"]["rest_ms"] = plan.step.rest_ms;
    if (plan.loader) json["speed"]["loader_ms_per_image"] = plan.loader->ms_per_image;
  }
  if (plan.run) {
    json["run"] = {{"images", plan.images},
                   {"steps_per_epoch", plan.run->steps_per_epoch},
                   {"epochs", plan.config.epochs},
                   {"evaluations", plan.run->evaluations},
                   {"evaluation_s", plan.run->evaluation_s},
                   {"total_s", plan.run->total_s}};
  }
  json["checkpoint_bytes"] = plan.checkpoint_bytes;
  json["disk_bytes"] = plan.disk_bytes;
  return json;
}

int plan_command(const PlanOptions& options) {
  const Plan plan = make_plan(options);
  if (options.json) {
    print_json(to_json(plan));
  } else {
    print_plan(plan);
  }
  return 0;
}

}  // namespace

void add_plan_command(Command app, Run& run) {
  const Command command = app.add_subcommand(
      "plan",
      "Say before a training run what it will take: parameters, arithmetic, memory by kind, images per second, time "
      "and\n"
      "disk, and the largest batch that fits. Memory is counted by going through a step without computing it, for any\n"
      "device. The speed comes from a few measured steps of two blocks (seconds), from a report of bench made on "
      "another\n"
      "machine, or, with --for, from published figures: then it is a bound that no program reaches.\n\n"
      "  dino_cuda plan configs/cifar10.toml\n"
      "  dino_cuda plan configs/imagenet_vits16.toml --for h200 --images 1281167\n"
      "  dino_cuda plan configs/imagenet_vits16.toml --for h200 --batch_size_per_gpu 256\n"
      "  dino_cuda plan my.toml --for a100 --rates bench-a100.json     measured by dino_cuda bench --json there\n"
      "  dino_cuda plan my.toml --no_speed --json\n");
  auto options = std::make_shared<PlanOptions>();
  command.add_option("config", options->config, "TOML file; what it leaves out has the official default")
      .type_name("FILE");
  std::string names = "cpu";
  for (const Accelerator& accelerator : accelerators()) names += fmt::format(", {}", accelerator.name);
  command.add_option("--for", options->device, "plan for another device: " + names).type_name("NAME");
  command.add_option("--rates", options->rates, "report of `dino_cuda bench --json` that tells the speed")
      .type_name("FILE");
  command.add_option("--images", options->images, "images of an epoch (default: those of data_path)").positive();
  command.add_flag("--cpu_time", options->cpu_time,
                   "measure CPU time over the threads: what the machine would do if nobody else used it");
  command.add_flag("--no_speed", options->no_speed, "measure and predict no speed");
  add_json_option(command, options->json);
  add_config_options(command, options->overrides);
  command.callback([options, &run] { run = [options] { return plan_command(*options); }; });
}

}  // namespace dino
