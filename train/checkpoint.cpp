#include "train/checkpoint.h"

#include "models/safetensors.h"
#include "models/weights_file.h"
#include "train/config_table.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <sstream>

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

/// Keys that say where and how fast a run goes, or how long, but not what it computes.
constexpr std::array<std::string_view, 29> kChangeable = {"init",
                                                          "epochs",
                                                          "data_path",
                                                          "output_dir",
                                                          "saveckp_freq",
                                                          "save_minutes",
                                                          "num_workers",
                                                          "augment",
                                                          "max_broken_share",
                                                          "threads",
                                                          "device",
                                                          "knn_every",
                                                          "knn_train_path",
                                                          "knn_test_path",
                                                          "knn_images",
                                                          "knn_k",
                                                          "knn_temperature",
                                                          "precision",
                                                          "max_skipped_steps",
                                                          "rollbacks",
                                                          "health_images",
                                                          "report_every",
                                                          "tensorboard",
                                                          "communicator",
                                                          "gradient_sums",
                                                          "bucket_mb",
                                                          "checksum_every",
                                                          "collective_timeout_s",
                                                          "rank_logs"};

template <typename Number>
Number number_of(const SafetensorsFile& file, const std::string& key) {
  const std::string& text = file.metadata(key);
  Number value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  require(error == std::errc() && end == text.data() + text.size(), "checkpoint", "its {} is not a number; got \"{}\"",
          key, text);
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

/// The line of each key in a written configuration, without the comment.
std::map<std::string, std::string> lines_by_key(const TrainConfig& config) {
  std::map<std::string, std::string> lines;
  std::stringstream text(write_config(config));
  for (std::string line; std::getline(text, line);) {
    const std::size_t equals = line.find(" = ");
    if (line.starts_with('#') || equals == std::string::npos) continue;
    const std::size_t comment = line.rfind(" # ");
    std::string value = line.substr(equals + 3, comment - equals - 3);
    value.erase(value.find_last_not_of(' ') + 1);
    lines[line.substr(0, equals)] = std::move(value);
  }
  return lines;
}

void require_same_run(const fs::path& path, const TrainConfig& of_checkpoint, const TrainConfig& config) {
  const auto before = lines_by_key(of_checkpoint);
  for (const auto& [key, value] : lines_by_key(config)) {
    if (std::find(kChangeable.begin(), kChangeable.end(), key) != kChangeable.end()) continue;
    require(before.at(key) == value, "checkpoint",
            "{} belongs to a run with {} = {}; got {}; try another output_dir for a new run", path.string(), key,
            before.at(key), value);
  }
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
  sources.push_back(
      {"optimizer.update_counts", DType::int64, counts_shape, [&] { return ConstArray(counts.data(), counts_shape); }});
  write_safetensors(path, sources,
                    {{"format", "dino_cuda training checkpoint"},
                     {"config", write_config(config)},
                     {"num_heads", std::to_string(networks.vit().config().heads)},
                     {"epoch", std::to_string(position.epoch)},
                     {"batch", std::to_string(position.batch)},
                     {"step", std::to_string(position.step)},
                     {"best_score", fmt::format("{}", position.best_score)},
                     {"rollbacks", std::to_string(position.rollbacks)},
                     {"healthy", position.healthy ? "true" : "false"},
                     {"health", position.health}},
                    {.checksum = true, .former = former});
}

TrainingPosition read_checkpoint(const fs::path& path, StudentTeacher& networks, const TrainConfig& config) {
  const SafetensorsFile file = or_say_damaged(path, [&] { return SafetensorsFile::read(path); });
  require_same_run(path, or_say_damaged(path, [&] { return parse_config(file.metadata("config"), "its config"); }),
                   config);
  // Everything is looked at before anything is changed.
  const TrainingPosition position = or_say_damaged(path, [&] {
    const auto check = [&](const std::string& name, DType dtype, const Shape& shape) {
      require_array(file[name], dtype, shape, path.string(), name);
    };
    for (const NamedFlat& named : kFlats) {
      for (const ParameterInfo& info : networks.layout().infos())
        check(named.prefix + info.name, DType::float32, info.shape);
    }
    check("center", DType::float32, networks.center().shape());
    check("optimizer.update_counts", DType::int64, Shape{static_cast<std::int64_t>(networks.layout().infos().size())});
    TrainingPosition found;
    found.epoch = number_of<std::int64_t>(file, "epoch");
    found.batch = number_of<std::int64_t>(file, "batch");
    found.step = number_of<std::int64_t>(file, "step");
    found.best_score = number_of<double>(file, "best_score");
    // Checkpoints from before the watch over a run's health do without.
    if (file.metadata().contains("health")) {
      found.rollbacks = number_of<int>(file, "rollbacks");
      found.healthy = file.metadata("healthy") == "true";
      found.health = file.metadata("health");
    }
    require(found.epoch >= 0 && found.batch >= 0 && found.step >= 0, "checkpoint",
            "its position is negative; got epoch {}, batch {}, step {}", found.epoch, found.batch, found.step);
    return found;
  });
  ParameterStore& store = networks.store();
  for (const NamedFlat& named : kFlats) {
    for (const ParameterId id : networks.layout().ids()) {
      Tensor window = store.window(store.*named.flat, id);
      store.context.copy_from_host(file[named.prefix + networks.layout()[id].name], window);
    }
  }
  store.context.copy_from_host(file["center"], networks.center());
  const ConstArray counts = file["optimizer.update_counts"];
  std::copy_n(counts.as<std::int64_t>(), counts.size(), networks.update_counts().begin());
  store.refresh_working_copies();
  return position;
}

std::vector<fs::path> find_checkpoints(const fs::path& output_dir) {
  std::vector<fs::path> found;
  // last is written after every epoch and at every interruption, and never removed.
  for (const char* name : {kLastCheckpoint, kPreviousCheckpoint}) {
    std::error_code ignored;
    if (fs::exists(output_dir / name, ignored)) found.push_back(output_dir / name);
  }
  return found;
}

}  // namespace dino
