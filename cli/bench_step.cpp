#include "benchmarks/measure.h"
#include "cli/bench.h"
#include "cli/config_options.h"
#include "cli/machine.h"
#include "cli/output.h"
#include "engine/machine.h"
#include "engine/progress.h"
#include "engine/random.h"
#include "kernels/common/error.h"
#include "models/json.h"
#include "train/precision.h"
#include "train/student_teacher.h"

#include <fmt/format.h>
#include <omp.h>
#include <sys/resource.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <memory>

namespace dino {
namespace {

struct StepOptions {
  std::string config;
  int batch = 0;
  int steps = 5;
  int warmup = 2;
  bool json = false;
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
  double cpu_s = 0;
  double page_faults = 0;
  PhaseTimes phases;
  double loss = 0;  // of the last step
};

StepMeasurement measure_step(Context& context, StudentTeacher& networks, const TrainConfig& config,
                             const StepOptions& options) {
  const TrainingCrops crops = random_crops(context, config);
  std::vector<double> step_ms, cpu_s, page_faults;
  std::vector<PhaseTimes> phases;
  StepMeasurement result;
  for (int step = 0; step < options.warmup + options.steps; ++step) {
    const StepValues values{.lr = 1e-5,
                            .weight_decay = config.weight_decay,
                            .teacher_momentum = config.momentum_teacher,
                            .teacher_temp = config.teacher_temp,
                            .freeze_last_layer = false,
                            .step = static_cast<std::uint64_t>(step)};
    const auto begin = std::chrono::steady_clock::now();
    const Usage before = Usage::now();
    for (int i = 0; i < config.accumulation; ++i) networks.run_micro_batch(crops, values);
    networks.update(values);
    const StepResult done = networks.wait();
    require(!done.not_finite, "bench", "{} is not finite in step {}", done.not_finite.value_or(""), step);
    const Usage after = Usage::now();
    const auto end = std::chrono::steady_clock::now();
    if (step < options.warmup) continue;
    step_ms.push_back(std::chrono::duration<double, std::milli>(end - begin).count());
    cpu_s.push_back(after.cpu_s - before.cpu_s);
    page_faults.push_back(after.page_faults - before.page_faults);
    phases.push_back(done.phases);
    result.loss = done.loss;
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
  result.step_ms = bench::median(step_ms);
  for (const double ms : step_ms) result.mean_step_ms += ms / static_cast<double>(step_ms.size());
  result.cpu_s = bench::median(cpu_s);
  result.page_faults = bench::median(page_faults);
  return result;
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
  SingleProcess communicator;
  StudentTeacher networks(*context, communicator, config, compute_type);
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
    const nlohmann::ordered_json json = {{"implementation", "dino_cuda " DINO_VERSION},
                                         {"version", DINO_VERSION},
                                         {"machine", machine},
                                         {"device", on_cpu ? "cpu" : "cuda"},
                                         {"threads", threads},
                                         {"precision", precision},
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
    fmt::print("{}\n", json_text(json));
    return 0;
  }
  fmt::print("{}, {} thread{}, {}\n", machine, threads, threads == 1 ? "" : "s", precision);
  fmt::print("{} with patches of {} px, batch {} × {}, 2 crops of {} px and {} of {} px, K = {}\n\n", config.arch,
             config.patch_size, config.batch_size_per_gpu, config.accumulation, config.global_crops_size,
             config.local_crops_number, config.local_crops_size, config.out_dim);
  fmt::print("{:>10.2f} images/s\n{:>10.1f} ms a step (mean {:.1f})\n", images_per_second, m.step_ms, m.mean_step_ms);
  fmt::print("{:>10.1f} ms teacher\n{:>10.1f} ms student\n{:>10.1f} ms loss\n", m.phases.teacher_ms,
             m.phases.student_ms, m.phases.loss_ms);
  fmt::print("{:>10.1f} ms backward\n{:>10.1f} ms update\n", m.phases.backward_ms, m.phases.update_ms);
  fmt::print("{:>10.3f} CPU seconds an image\n{:>10.0f} page faults a step\n", m.cpu_s / images, m.page_faults);
  fmt::print("{:>10.2f} GiB at most, {:.2f} GiB of it tensors\n", static_cast<double>(peak_bytes) * 0x1p-30,
             static_cast<double>(context->arena().peak_bytes()) * 0x1p-30);
  return 0;
}

}  // namespace

void add_bench_step_command(CLI::App& bench, Run& run) {
  CLI::App* command = bench.add_subcommand(
      "step",
      "Measure the whole training step on crops of noise that are in memory already: teacher, student, loss, backward\n"
      "and update. Every key of the configuration is an option; lr is fixed and the last layer is trained.\n\n"
      "  dino_cuda bench step --arch vit_small --batch 4\n"
      "  dino_cuda bench step --arch vit_tiny --patch_size 8 --global_crops_size 64 --local_crops_size 32 --batch 32\n"
      "  dino_cuda bench step --config configs/scenes.toml --json\n");
  auto options = std::make_shared<StepOptions>();
  command->add_option("--config", options->config, "TOML file; what it leaves out has the official default")
      ->type_name("FILE");
  command->add_option("--batch", options->batch, "batch_size_per_gpu (default: the file's, else 4)")
      ->check(CLI::PositiveNumber);
  command->add_option("--steps", options->steps, "steps that are measured; the median counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--warmup", options->warmup, "steps before these")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  add_json_option(*command, options->json);
  add_config_options(*command, options->overrides);
  command->allow_extras();  // reported below, with the key that was probably meant
  command->callback([command, options, &run] {
    refuse_extras(*command);
    run = [options] { return bench_step(*options); };
  });
}

}  // namespace dino
