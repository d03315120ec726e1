#include "train/memory_plan.h"

#include "engine/communicators/silent.h"
#include "engine/host_memory.h"
#include "engine/rehearsal.h"
#include "train/training_data.h"

#include <algorithm>
#include <array>
#include <span>

namespace dino {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

/// What the process takes besides tensors, batches and checkpoints: its code and libraries, what oneDNN compiles, the
/// kernels' scratch memory, stacks. 22 to 32 MiB on an Intel CPU with two threads (docs/planning.md).
constexpr std::size_t kProgramBytes = 28 * kMiB;
/// With a GPU: the CUDA runtime's share of the host, and up to 256 MiB of pinned memory to copy through. From NVIDIA's
/// documentation of lazy loading and experience with other programs; not measured with this one.
constexpr std::size_t kCudaProgramBytes = 900 * kMiB;
/// Addresses that a process maps without using them: the heap's growth, stacks of threads, and 256 KiB for each kernel
/// that oneDNN compiles, which crashes where it gets none. 96 MiB were too few.
constexpr std::size_t kUnusedAddresses = 192 * kMiB;
/// Batches of the loader beside those ahead: the trainer's, and one that waits to be filled again.
constexpr int kBatchesBesides = 2;

std::size_t size_bytes(const Tensor& tensor) { return tensor ? tensor.size_bytes() : 0; }

std::size_t picture_bytes(const RunFacts& facts) {
  return std::size_t{3} * static_cast<std::size_t>(facts.picture_height_px) *
         static_cast<std::size_t>(facts.picture_width_px);
}

/// Bytes of the crops of one image.
std::size_t crop_bytes(const TrainConfig& c) {
  const auto square = [](int side) { return static_cast<std::size_t>(side) * static_cast<std::size_t>(side); };
  return 3 * (2 * square(c.global_crops_size) +
              static_cast<std::size_t>(c.local_crops_number) * square(c.local_crops_size));
}

std::size_t loader_bytes(const TrainConfig& config, const RunFacts& facts) {
  const std::size_t image =
      augment_on(config, facts.device) == AugmentOn::device ? picture_bytes(facts) : crop_bytes(config);
  const auto batches = static_cast<std::size_t>(LoaderOptions().prefetch_batches + kBatchesBesides);
  // A thread decodes into a picture of its own, and its crops pass through scratch memory of about that size.
  return batches * static_cast<std::size_t>(config.batch_size_per_gpu) * image +
         facts.loader_threads * 2 * picture_bytes(facts);
}

/// The pictures and plans from which a device makes crops lie there until it has.
std::vector<Tensor> sources_of_crops(Context& context, const TrainConfig& config, const RunFacts& facts) {
  std::vector<Tensor> sources;
  if (augment_on(config, facts.device) == AugmentOn::host) return sources;
  const std::int64_t images = config.batch_size_per_gpu;
  const auto reserve = [&](std::int64_t bytes) { sources.push_back(context.empty({bytes}, DType::uint8)); };
  reserve(images * static_cast<std::int64_t>(picture_bytes(facts)));
  reserve(images * std::int64_t{sizeof(CropPicture)});
  reserve(images * std::max(2, config.local_crops_number) * std::int64_t{sizeof(CropPlan)});
  return sources;
}

/// Room for the parts of the largest sum that other ranks send; and on a GPU for what comes from there and goes back,
/// where a run is resumed all weights at a time.
std::size_t sum_bytes(const TrainConfig& config, const RunFacts& facts, const ParameterLayout& layout) {
  const bool by_nccl = facts.device == Device::cuda && (config.communicator == "auto" || config.communicator == "nccl");
  if (facts.ranks == 1 || by_nccl) return 0;
  std::int64_t largest = 0;
  for (const GradientBucket& bucket : plan_buckets(layout, std::int64_t{config.bucket_mb} << 20))
    largest = std::max(largest, bucket.end - bucket.begin);
  const std::size_t bytes = static_cast<std::size_t>(largest) * (config.gradient_sums == "bf16" ? 2 : sizeof(float));
  return bytes + (facts.device == Device::cuda ? static_cast<std::size_t>(layout.flat_size()) * sizeof(float) : 0);
}

/// Two steps: the second one has everything in its final place. Returns the bytes of the crops.
std::size_t rehearse_steps(Context& context, StudentTeacher& networks, const TrainConfig& config,
                           const RunFacts& facts) {
  std::size_t crops_at_most = 0;
  for (std::uint64_t step = 0; step < 2; ++step) {
    const StepValues values{.lr = config.lr,
                            .weight_decay = config.weight_decay,
                            .teacher_momentum = config.momentum_teacher,
                            .teacher_temp = config.teacher_temp,
                            .step = step};
    for (int i = 0; i < config.accumulation; ++i) {
      const std::size_t before = context.arena().used_bytes();
      const TrainingCrops crops = noise_crops(context, config);
      crops_at_most = std::max(crops_at_most, context.arena().used_bytes() - before);
      sources_of_crops(context, config, facts);  // and lets them go again
      networks.run_micro_batch(crops, values);
    }
    networks.update(values);
    networks.wait();
  }
  return crops_at_most;
}

}  // namespace

TrainingCrops noise_crops(Context& context, const TrainConfig& config) {
  TrainingCrops crops;
  const auto add_group = [&](int views, int size_px) {
    if (views == 0) return;
    Tensor pixels = context.empty({std::int64_t{views} * config.batch_size_per_gpu, size_px, size_px, 3}, DType::uint8);
    if (context.stream().executes()) {
      std::vector<std::uint8_t> noise(pixels.size_bytes());
      std::uint32_t state = 1;
      for (std::uint8_t& pixel : noise) {
        state = state * 1664525U + 1013904223U;
        pixel = static_cast<std::uint8_t>(state >> 24);
      }
      context.copy_from_host(ConstArray(noise.data(), pixels.shape()), pixels);
    }
    crops.groups.push_back({pixels});
  };
  add_group(2, config.global_crops_size);
  add_group(config.local_crops_number, config.local_crops_size);
  for (int b = 0; b < config.batch_size_per_gpu; ++b) crops.samples.push_back(static_cast<std::uint64_t>(b));
  return crops;
}

MemoryPlan plan_memory(const TrainConfig& config, const RunFacts& facts) {
  MemoryPlan plan;
  TrainConfig two_parts = config;  // more micro-batches than two allocate what the second one does
  two_parts.accumulation = std::min(config.accumulation, 2);
  SilentRank communicator(facts.ranks);
  const auto rehearse = [&](bool evaluated, MemoryPlan* kinds) {
    const std::unique_ptr<Context> context = make_rehearsal_context(facts.device);
    StudentTeacher networks(*context, communicator, two_parts, facts.compute_type);
    const Arena& arena = context->arena();
    const std::size_t kept = arena.used_bytes();
    if (evaluated) facts.evaluation(*context, networks);
    const std::size_t crops = rehearse_steps(*context, networks, two_parts, facts);
    if (evaluated) facts.evaluation(*context, networks);  // beside what the steps have left
    if (kinds != nullptr) {
      const ParameterStore& store = networks.store();
      kinds->weights = size_bytes(store.student) + size_bytes(store.student_working);
      kinds->teacher = size_bytes(store.teacher) + size_bytes(store.teacher_working);
      kinds->gradient = size_bytes(store.gradient);
      kinds->optimizer = size_bytes(store.first_moment) + size_bytes(store.second_moment);
      kinds->tables = kept - kinds->weights - kinds->teacher - kinds->gradient - kinds->optimizer;
      kinds->crops = crops;
      kinds->activations = arena.peak_bytes() - kept - crops;
      for (const ParameterInfo& info : networks.layout().infos())
        kinds->checkpoint = std::max(kinds->checkpoint, static_cast<std::size_t>(info.size()) * sizeof(float));
      kinds->sums = sum_bytes(config, facts, networks.layout());
      kinds->checkpoint_file =
          size_bytes(store.student) + size_bytes(store.teacher) + kinds->optimizer + size_bytes(networks.center());
    }
    return std::pair{arena.peak_bytes(), arena.reach_bytes()};
  };
  auto [peak, reach] = rehearse(false, &plan);
  if (facts.evaluation) {
    const auto [peak_with, reach_with] = rehearse(true, nullptr);
    plan.evaluation = peak_with - peak;
    peak = peak_with;
    reach = reach_with;
  }
  plan.arena_peak = peak;
  plan.gaps = reach - peak;
  plan.loader = loader_bytes(config, facts);
  plan.program = facts.device == Device::cuda ? kCudaProgramBytes : kProgramBytes;
  return plan;
}

MemoryLimits memory_limits(Context& context, Communicator& communicator) {
  HostMemory host = host_memory();
  if (communicator.size() > 1) {
    // Those of one machine have read it at different times; none goes on before all have.
    const std::array<std::uint64_t, 2> mine{machine_number(), host.shared_bytes};
    std::vector<std::array<std::uint64_t, 2>> all(static_cast<std::size_t>(communicator.size()));
    communicator.all_gather_host(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(all)),
                                 "memory of the machines");
    int here = 0;
    for (const auto& [machine, bytes] : all) {
      if (machine != mine[0]) continue;
      ++here;
      host.shared_bytes = std::min<std::size_t>(host.shared_bytes, bytes);
    }
    host = host.part_of(here);
  }
  return {.device_bytes = context.arena().capacity_bytes(),
          .host_bytes = host.available_bytes,
          .address_bytes = host.address_bytes,
          .host = host.to_string()};
}

bool fits(const MemoryPlan& plan, Device device, const MemoryLimits& limits) {
  const std::size_t on_host = plan.host_bytes() + (device == Device::cpu ? plan.device_bytes() : 0);
  return plan.device_bytes() <= limits.device_bytes && on_host <= limits.host_bytes &&
         plan.host_bytes() + kUnusedAddresses <= limits.address_bytes;
}

int largest_batch(const TrainConfig& config, const RunFacts& facts, const MemoryLimits& limits, int most) {
  const auto batch_fits = [&](int batch) {
    TrainConfig tried = config;
    tried.batch_size_per_gpu = batch;
    return fits(plan_memory(tried, facts), facts.device, limits);
  };
  if (!batch_fits(1)) return 0;
  int good = 1;
  int bad = 2;
  while (bad <= most && batch_fits(bad)) {
    good = bad;
    bad *= 2;
  }
  bad = std::min(bad, most + 1);
  while (bad - good > 1) {
    const int middle = good + (bad - good) / 2;
    (batch_fits(middle) ? good : bad) = middle;
  }
  return good;
}

std::optional<std::pair<int, int>> same_global_batch(const TrainConfig& config, const RunFacts& facts,
                                                     const MemoryLimits& limits) {
  const std::int64_t global = std::int64_t{config.batch_size_per_gpu} * config.accumulation;
  TrainConfig tried = config;
  tried.accumulation = 2;  // as any number but 1
  const std::int64_t most = largest_batch(tried, facts, limits, config.batch_size_per_gpu);
  for (std::int64_t batch = most; batch >= 1; --batch) {
    if (global % batch == 0) return std::pair{static_cast<int>(batch), static_cast<int>(global / batch)};
  }
  return std::nullopt;
}

std::vector<std::pair<std::string, std::size_t>> kinds_of(const MemoryPlan& plan) {
  return {{"weights", plan.weights},         {"teacher", plan.teacher},       {"gradient", plan.gradient},
          {"optimizer", plan.optimizer},     {"tables", plan.tables},         {"crops", plan.crops},
          {"activations", plan.activations}, {"evaluation", plan.evaluation}, {"gaps", plan.gaps},
          {"loader", plan.loader},           {"checkpoint", plan.checkpoint}, {"sums", plan.sums},
          {"program", plan.program}};
}

std::string largest_kinds(const MemoryPlan& plan, std::size_t most) {
  auto kinds = kinds_of(plan);
  std::stable_sort(kinds.begin(), kinds.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  std::string text;
  for (std::size_t i = 0; i < std::min(most, kinds.size()) && kinds[i].second > 0; ++i) {
    text +=
        fmt::format("{}{} {}", i > 0 ? ", " : "", kinds[i].first, format_bytes(static_cast<double>(kinds[i].second)));
  }
  return text;
}

void require_memory(const TrainConfig& config, const RunFacts& facts, Context& context, Communicator& communicator) {
  const MemoryLimits limits = memory_limits(context, communicator);
  const MemoryPlan plan = plan_memory(config, facts);
  if (fits(plan, facts.device, limits)) return;
  // What is short, in the order of fits().
  const bool on_cpu = facts.device == Device::cpu;
  std::size_t needed = plan.device_bytes();
  std::string available = fmt::format("{} for tensors ({})", format_bytes(static_cast<double>(limits.device_bytes)),
                                      on_cpu ? "addresses of this process" : "free memory of the GPU");
  bool addresses_are_short = false;
  if (plan.device_bytes() <= limits.device_bytes) {
    needed = plan.host_bytes() + (on_cpu ? plan.device_bytes() : 0);
    available = limits.host;
    addresses_are_short = needed <= limits.host_bytes;
  }
  if (addresses_are_short) {
    fail("memory",
         "the run does not fit; got {} of addresses (ulimit -v), expected about {} at least, as libraries and "
         "threads take addresses without memory; try a larger ulimit -v, or --ignore_memory",
         format_bytes(static_cast<double>(limits.address_bytes)),
         format_bytes(static_cast<double>(plan.host_bytes() + kUnusedAddresses)));
  }
  const auto smaller = same_global_batch(config, facts, limits);
  const std::string advice =
      smaller ? fmt::format("--batch_size_per_gpu {} --accumulation {} (the same global batch), or --ignore_memory",
                            smaller->first, smaller->second)
              : std::string("a smaller model, smaller or fewer crops, or --ignore_memory");
  fail("memory", "the run does not fit; got {}, expected about {} at least ({}); try {}", available,
       format_bytes(static_cast<double>(needed)), largest_kinds(plan, 4), advice);
}

}  // namespace dino
