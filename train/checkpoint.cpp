#include "train/checkpoint.h"

#include "engine/files.h"
#include "engine/text.h"
#include "models/safetensors.h"
#include "models/weights_file.h"
#include "train/config_table.h"
#include "train/health.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <utility>

namespace dino {
namespace {

namespace fs = std::filesystem;

/// The flat arrays of a store under the prefixes of their tensors.
struct NamedFlat {
  const char* prefix;
  Tensor ParameterStore::*flat;
};
constexpr std::array<NamedFlat, 4> kFlats = {{{"student.", &ParameterStore::student},
                                              {"teacher.", &ParameterStore::teacher},
                                              {"optimizer.first_moment.", &ParameterStore::first_moment},
                                              {"optimizer.second_moment.", &ParameterStore::second_moment}}};

constexpr const char* kCounts = "optimizer.update_counts";

/// Keys that say where and how fast a run goes, or how long, but not what it computes. The first two:
/// require_same_step.
constexpr std::array<std::string_view, 31> kChangeable = {
    "batch_size_per_gpu", "accumulation",  "init",          "epochs",          "data_path",
    "output_dir",         "saveckp_freq",  "save_minutes",  "num_workers",     "augment",
    "max_broken_share",   "threads",       "device",        "knn_every",       "knn_train_path",
    "knn_test_path",      "knn_images",    "knn_k",         "knn_temperature", "precision",
    "max_skipped_steps",  "rollbacks",     "health_images", "report_every",    "tensorboard",
    "communicator",       "gradient_sums", "bucket_mb",     "checksum_every",  "collective_timeout_s",
    "rank_logs"};

// More than any run has, and so little that products of them fit into 64 bits.
constexpr std::int64_t kMostRanks = 1 << 20;
constexpr std::int64_t kMostBatches = std::int64_t{1} << 31;  // of an epoch; epochs
constexpr std::int64_t kMostSteps = std::int64_t{1} << 53;    // of a run; pictures of a step
constexpr int kMostRollbacks = 1000;                          // as the configuration allows

template <typename Number>
Number number_of(const SafetensorsReader& file, const std::string& key, Number low, Number high) {
  const std::string& text = file.metadata(key);
  Number value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  require(error == std::errc() && end == text.data() + text.size(), "checkpoint", "its {} is not a number; got \"{}\"",
          key, printable(text));
  require(value >= low && value <= high, "checkpoint", "its {} is {}; expected a number from {} to {}", key, value, low,
          high);
  return value;
}

/// Calls `read`, and says what can be done where the file turns out not to be what was written.
template <typename Read>
auto or_say_damaged(const fs::path& path, const Read& read) {
  try {
    return read();
  } catch (const Error& error) {
    throw DamagedCheckpoint("checkpoint",
                            fmt::format("{} is damaged: {}; try a kept one in its place (best.safetensors, "
                                        "epoch_NNNN.safetensors), or another --output_dir for a new run",
                                        path.string(), error.what()));
  }
}

void require_same_run(const fs::path& path, const TrainConfig& of_checkpoint, const TrainConfig& config) {
  const auto before = config_values(of_checkpoint), now = config_values(config);
  for (std::size_t i = 0; i < now.size(); ++i) {
    const auto& [key, value] = now[i];
    if (std::find(kChangeable.begin(), kChangeable.end(), key) != kChangeable.end()) continue;
    require(before[i].second == value, "checkpoint",
            "{} belongs to a run with {} = {}; got {}; try another output_dir for a new run", path.string(), key,
            before[i].second, value);
  }
}

/// How a step's pictures are spread over ranks and micro-batches.
struct Spread {
  std::int64_t batch = 0, accumulation = 0, ranks = 0;

  std::int64_t images() const { return batch * accumulation * ranks; }
  std::string to_string() const {
    return fmt::format("{} = {} a rank × {} micro-batches × {} ranks", images(), batch, accumulation, ranks);
  }
};

/// A run may go on with other numbers of ranks and micro-batches, where a step has the same pictures.
void require_same_step(const fs::path& path, const Spread& before, const Spread& now, const TrainConfig& config) {
  const std::int64_t each = before.images() / (now.accumulation * now.ranks);
  require(before.images() == now.images(), "checkpoint",
          "{} belongs to a run with steps of {} pictures; got {}; try {}", path.string(), before.to_string(),
          now.to_string(),
          each * now.accumulation * now.ranks == before.images()
              ? fmt::format("--batch_size_per_gpu {}", each)
              : "numbers of ranks and micro-batches that divide the first");
  require(!config.use_bn_in_head || before.accumulation == now.accumulation, "checkpoint",
          "{} belongs to a run whose batch norm sees {} pictures at a time; got {}; try --accumulation {}",
          path.string(), before.batch * before.ranks, now.batch * now.ranks, before.accumulation);
}

}  // namespace

void write_checkpoint(const fs::path& path, StudentTeacher& networks, const TrainConfig& config,
                      const TrainingPosition& position, const fs::path& former) {
  ParameterStore& store = networks.store();
  std::vector<float> host;  // of the tensor that is written
  std::vector<NamedSource> sources;
  const auto add = [&](const std::string& name, const Tensor& tensor) {
    sources.push_back({name, DType::float32, tensor.shape(), [&store, &host, tensor] {
                         host.resize(static_cast<std::size_t>(tensor.size()));
                         store.context.copy_to_host(tensor, Array(host.data(), tensor.shape()));
                         return ConstArray(host.data(), tensor.shape());
                       }});
  };
  for (const NamedFlat& named : kFlats) {
    for (const ParameterId id : networks.layout().ids()) {
      add(named.prefix + networks.layout()[id].name, store.window(store.*named.flat, id));
    }
  }
  add("center", networks.center());
  const std::vector<std::int64_t>& counts = networks.update_counts();
  const Shape counts_shape{static_cast<std::int64_t>(counts.size())};
  sources.push_back({kCounts, DType::int64, counts_shape, [&] { return ConstArray(counts.data(), counts_shape); }});
  write_safetensors(path, sources,
                    {{"format", "dino_cuda training checkpoint"},
                     {"config", write_config(config)},
                     {"num_heads", std::to_string(networks.vit().config().heads)},
                     {"epoch", std::to_string(position.epoch)},
                     {"batch", std::to_string(position.batch)},
                     {"step", std::to_string(position.step)},
                     {"ranks", std::to_string(networks.ranks())},
                     {"best_score", fmt::format("{}", position.best_score)},
                     {"rollbacks", std::to_string(position.rollbacks)},
                     {"healthy", position.healthy ? "true" : "false"},
                     {"health", position.health}},
                    {.checksum = true, .former = former});
}

OpenCheckpoint open_checkpoint(const fs::path& path, const CheckpointNeeds& needs, const TrainConfig& config) {
  SafetensorsReader file = or_say_damaged(path, [&] { return SafetensorsReader(path); });
  const TrainConfig before = or_say_damaged(path, [&] { return parse_config(file.metadata("config"), "its config"); });
  require_same_run(path, before, config);
  const Spread now{config.batch_size_per_gpu, config.accumulation, needs.ranks};
  Spread then{before.batch_size_per_gpu, before.accumulation, 1};
  TrainingPosition position = or_say_damaged(path, [&] {
    const auto check = [&](const std::string& name, DType dtype, const Shape& shape) {
      require(file.dtype(name) == dtype && file.shape(name) == shape, "checkpoint",
              "{} has the wrong type or shape; got {} {}, expected {} {}", name, name_of(file.dtype(name)),
              file.shape(name).to_string(), name_of(dtype), shape.to_string());
    };
    for (const NamedFlat& named : kFlats) {
      for (const ParameterInfo& info : needs.layout.infos())
        check(named.prefix + info.name, DType::float32, info.shape);
    }
    check("center", DType::float32, needs.center);
    check(kCounts, DType::int64, Shape{static_cast<std::int64_t>(needs.layout.infos().size())});
    // Files from before there were several have one.
    if (file.metadata().contains("ranks")) then.ranks = number_of<std::int64_t>(file, "ranks", 1, kMostRanks);
    require(then.batch * then.accumulation <= kMostSteps / then.ranks, "checkpoint",
            "its steps have {} × {} × {} pictures, which no data set has", then.batch, then.accumulation, then.ranks);
    TrainingPosition found;
    found.epoch = number_of<std::int64_t>(file, "epoch", 0, kMostBatches);
    found.batch = number_of<std::int64_t>(file, "batch", 0, kMostBatches);
    found.step = number_of<std::int64_t>(file, "step", 0, kMostSteps);
    found.best_score = number_of<double>(file, "best_score", std::numeric_limits<double>::lowest(),
                                         std::numeric_limits<double>::max());
    // Checkpoints from before the watch over a run's health do without.
    if (file.metadata().contains("health")) {
      found.rollbacks = number_of<int>(file, "rollbacks", 0, kMostRollbacks);
      found.healthy = file.metadata("healthy") == "true";
      found.health = file.metadata("health");
      if (!found.health.empty()) Health(before, 1).restore(found.health);
    }
    std::vector<std::int64_t> counts(needs.layout.infos().size());
    file.read(kCounts, std::as_writable_bytes(std::span(counts)));
    for (std::size_t i = 0; i < counts.size(); ++i) {
      require(counts[i] >= 0 && counts[i] <= found.step, "checkpoint", "it counts {} updates of {} in {} steps",
              counts[i], needs.layout.infos()[i].name, found.step);
    }
    return found;
  });
  require_same_step(path, then, now, config);
  position.batch = position.batch / then.accumulation * now.accumulation;
  return {std::move(file), position};
}

TrainingPosition read_checkpoint(const fs::path& path, StudentTeacher& networks, const TrainConfig& config) {
  // Everything is looked at before anything is changed.
  auto [file, position] = open_checkpoint(
      path, {.layout = networks.layout(), .center = networks.center().shape(), .ranks = networks.ranks()}, config);
  ParameterStore& store = networks.store();
  std::vector<float> host;  // of the tensor that is read
  const auto read = [&, &file = file](const std::string& name, Tensor to) {
    host.resize(static_cast<std::size_t>(to.size()));
    file.read(name, std::as_writable_bytes(std::span(host)));
    store.context.copy_from_host(ConstArray(host.data(), to.shape()), to);
  };
  or_say_damaged(path, [&, &file = file] {
    for (const NamedFlat& named : kFlats) {
      for (const ParameterId id : networks.layout().ids())
        read(named.prefix + networks.layout()[id].name, store.window(store.*named.flat, id));
    }
    read("center", networks.center());
    file.read(kCounts, std::as_writable_bytes(std::span(networks.update_counts())));
  });
  store.refresh_working_copies();
  return position;
}

std::vector<fs::path> find_checkpoints(const fs::path& output_dir) {
  std::vector<fs::path> found;
  // last is written after every epoch and at every interruption, and never removed.
  for (const char* name : {kLastCheckpoint, kPreviousCheckpoint}) {
    if (file_exists(output_dir / name)) found.push_back(output_dir / name);
  }
  return found;
}

fs::path any_checkpoint(const fs::path& output_dir) {
  for (const char* name : {kLastCheckpoint, kPreviousCheckpoint, kBestCheckpoint, kHealthyCheckpoint}) {
    if (file_exists(output_dir / name)) return output_dir / name;
  }
  std::error_code error;
  for (fs::directory_iterator at(output_dir, error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (name.starts_with("epoch_") && name.ends_with(".safetensors")) return at->path();
  }
  return {};
}

std::int64_t step_of_checkpoint(const fs::path& path) {
  return or_say_damaged(path, [&] {
    const SafetensorsReader file(path);
    return number_of<std::int64_t>(file, "step", 0, kMostSteps);
  });
}

}  // namespace dino
