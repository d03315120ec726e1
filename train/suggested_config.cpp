#include "train/suggested_config.h"

#include "engine/host_memory.h"
#include "engine/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

namespace dino {
namespace {

/// From here on the official settings, which were made for 1.28 million pictures.
constexpr std::int64_t kMillion = 1'000'000;
/// Of the official run: 0.996 averages over 250 of an epoch's 1251 steps.
constexpr double kTeacherAverageOfEpoch = 0.2;

int floor_power_of_two(std::int64_t n) { return static_cast<int>(std::bit_floor(static_cast<std::uint64_t>(n))); }

/// 0.996 for 0.9962 with 1000 parts: the number nearest to that in decimals.
double round_to_parts(double value, double parts) { return std::round(value * parts) / parts; }

/// 7, 20, 85, 240: what a person would have written.
int tidy(double n) {
  if (n > 100) return static_cast<int>(std::round(n / 10)) * 10;
  if (n > 20) return static_cast<int>(std::round(n / 5)) * 5;
  return std::max(1, static_cast<int>(std::lround(n)));
}

/// The rules, one group of keys each, in the order in which they depend on each other.
class Suggestion {
 public:
  Suggestion(const DataSummary& data, const MachineSummary& machine) : data_(data), machine_(machine) {}

  SuggestedConfig make() {
    choose_crops();
    choose_network();
    choose_length();
    choose_knn();
    choose_batch();
    choose_teacher();
    choose_colors();
    choose_run();
    add_notes();
    return std::move(result_);
  }

 private:
  template <typename Value>
  void set(std::string_view key, Value TrainConfig::*member, Value value, std::string reason) {
    c_.*member = value;
    result_.reasons.push_back({std::string(key), std::move(reason)});
  }

  void choose_crops() {
    // A picture of no known size is taken for a photograph.
    const int side = data_.short_side_px.median > 0 ? data_.short_side_px.median : 224;
    const int most = machine_.has_gpu ? 224 : 64;
    const int wanted = std::min(side, most);
    int patch = 16;
    while (patch > 1 && wanted / patch < 7) patch /= 2;
    const int global = std::max(2 * patch, wanted / patch * patch);
    if (global == 224) {
      return;  // patches of 16 and local crops of 96: as the official
    }
    const std::string why = side <= most ? fmt::format("no larger than the pictures, whose short side is {} px", side)
                                         : "what a CPU computes in bearable time: cost goes with (crop / patch)²";
    set("patch_size", &C::patch_size, patch,
        fmt::format("{} × {} patches in a global crop", global / patch, global / patch));
    set("global_crops_size", &C::global_crops_size, global, why);
    const int local = std::max(patch, (global >= 128 ? global * 96 / 224 : global / 2) / patch * patch);
    set("local_crops_size", &C::local_crops_size, local,
        global >= 128 ? "in the official proportion to the global crops" : "half of a global crop");
    if (global <= 64) {
      set("local_crops_scale", &C::local_crops_scale, {0.1, 0.4},
          fmt::format("less than a tenth of {0}×{0} pixels shows nothing", std::min(side, 2 * global)));
    }
    const double radius = std::max(0.3, round_to_parts(2 * std::sqrt(global / 224.0), 10));
    set("blur_radius", &C::blur_radius, {0.1, radius}, "the official radius is made for crops of 224 pixels");
    if (global <= 48)
      set("blur_prob_global1", &C::blur_prob_global1, 0.5, "blur leaves little of a picture as small as this");
    if (!machine_.has_gpu) set("local_crops_number", &C::local_crops_number, 4, "half of the official 8: a CPU's time");
  }

  void choose_network() {
    const std::int64_t n = data_.pictures;
    const bool small = !machine_.has_gpu || n < 20'000;
    if (small) {
      set("arch", &C::arch, std::string("vit_tiny"),
          machine_.has_gpu ? fmt::format("{} pictures do not fill a larger network", n)
                           : "the largest that a CPU trains in bearable time");
      if (!machine_.has_gpu) {
        set("depth", &C::depth, 6, "half of the blocks, for half of the time");
        set("head_hidden_dim", &C::head_hidden_dim, 512, "a head in proportion to the network");
        set("head_bottleneck_dim", &C::head_bottleneck_dim, 128, "likewise");
      }
      set("norm_last_layer", &C::norm_last_layer, false, "small models do better with a free norm");
      set("drop_path_rate", &C::drop_path_rate, 0.0, "a small network needs no dropping of its branches");
    }
    if (n < kMillion) {
      const int prototypes =
          std::clamp(1 << std::lround(std::log2(std::max(1.0, static_cast<double>(n) / 40))), 512, 16384);
      set("out_dim", &C::out_dim, prototypes,
          fmt::format("prototypes: 65536 are for 1.28 million pictures, here are {}", n));
    }
  }

  void choose_batch() {
    const std::int64_t n = data_.pictures;
    int batch = 32;
    std::string reason = "small: many steps matter more on a CPU than large ones";
    if (machine_.has_gpu) {
      batch = n >= 100'000 ? 256 : n >= 20'000 ? 128 : 64;
      reason = "one GPU; with several, as many on each";
    }
    const int most = floor_power_of_two(std::max<std::int64_t>(1, n / 8));
    if (batch > most) {
      batch = most;
      reason = n < 8 ? "a step for each of so few pictures" : "at least eight steps an epoch";
    }
    if (machine_.largest_batch) {
      const int fitting = machine_.largest_batch(c_, batch);
      nothing_fits_ = fitting < 1;
      if (fitting < batch) {
        batch = floor_power_of_two(std::max(1, fitting));
        reason = fmt::format("what {} of memory hold; accumulation makes it larger",
                             format_bytes(static_cast<double>(machine_.memory_bytes)));
      }
    }
    set("batch_size_per_gpu", &C::batch_size_per_gpu, batch, reason);
    steps_per_epoch_ = std::max<std::int64_t>(1, n / batch);
    if (n < kMillion) {
      // The examples in configs/ take the same step at a batch of 32.
      set("lr", &C::lr, 0.0005 * 256 / batch,
          fmt::format("0.0005 at this batch: the rate is for 256 pictures and scaled by the batch, {} / 256", batch));
    }
  }

  void choose_length() {
    const auto n = static_cast<double>(data_.pictures);
    double epochs = 0;
    std::string reason;
    if (machine_.has_gpu) {
      epochs = std::clamp(1e7 / n, 100.0, 800.0);
      reason = epochs > 100 ? "few pictures: more passes" : "as the official";
    } else {
      const double images = 2e5 * machine_.cores;
      epochs = std::clamp(images / n, 10.0, 200.0);
      reason = images / n < 10    ? fmt::format("the least that is worth it, and long on {} cores", machine_.cores)
               : images / n > 200 ? std::string("few pictures: many passes")
                                  : fmt::format("hours on {} cores; more passes do better", machine_.cores);
    }
    set("epochs", &C::epochs, tidy(epochs), reason + "; `plan` tells the time");
    set("warmup_epochs", &C::warmup_epochs, std::clamp(c_.epochs / 10, 1, 10),
        c_.epochs > 100 ? "as the official" : "a tenth of the run");
  }

  void choose_teacher() {
    const double average = kTeacherAverageOfEpoch * static_cast<double>(steps_per_epoch_);
    const double momentum = std::clamp(1 - 1 / std::max(1.0, average), 0.99, 0.9995);
    const std::string why =
        1 - 1 / average < 0.99
            ? fmt::format("averages over 100 steps, where an epoch has {}: less is unsteady", steps_per_epoch_)
        : momentum == 0.9995
            ? fmt::format("averages over 2000 of an epoch's {} steps: more is slow", steps_per_epoch_)
            : fmt::format("averages over a fifth of an epoch's {} steps, as the official 0.996 of 1251",
                          steps_per_epoch_);
    set("momentum_teacher", &C::momentum_teacher, round_to_parts(momentum, 10'000), why);
    if (data_.pictures >= kMillion) return;
    set("warmup_teacher_temp", &C::warmup_teacher_temp, 0.03,
        "short runs need a sharp teacher, or its outputs stay uniform");
    set("teacher_temp", &C::teacher_temp, 0.04, "after the warm-up; higher is unstable");
    set("warmup_teacher_temp_epochs", &C::warmup_teacher_temp_epochs, std::clamp(c_.epochs / 20, 1, 30),
        c_.epochs > 600 ? "as in the official runs" : "the first twentieth of the run");
  }

  void choose_colors() {
    if (data_.grey_share < 0.95) return;
    set("jitter_saturation", &C::jitter_saturation, 0.0, "the pictures are grey: nothing to change");
    set("jitter_hue", &C::jitter_hue, 0.0, "likewise");
    set("gray_prob", &C::gray_prob, 0.0, "likewise");
  }

  void choose_knn() {
    if (data_.classes == 0) {
      set("knn_every", &C::knn_every, 0,
          "the pictures have no labels: give some with knn_train_path and knn_test_path");
      return;
    }
    if (data_.classes < 2 || data_.largest_class < 2) {
      set("knn_every", &C::knn_every, 0, "one class only: there is nothing to classify");
      return;
    }
    set("knn_every", &C::knn_every, std::max(1, c_.epochs / 20),
        fmt::format("answers whether it learns, from the labels of {} classes; {}", data_.classes,
                    data_.test_pictures > 0 ? "tested on the val or test split" : "a tenth is held out for it"));
    if (data_.pictures < 5000)
      set("knn_k", &C::knn_k, {10, 20}, "100 or 200 neighbours are too many of so few pictures");
  }

  void choose_run() {
    set("num_workers", &C::num_workers, 0, "one thread per core decodes and augments");
    set("saveckp_freq", &C::saveckp_freq, std::max(1, c_.epochs / 5),
        "five checkpoints stay, besides the last and the best");
  }

  void add_notes() {
    auto& notes = result_.notes;
    if (data_.pictures < 1000)
      notes.push_back(fmt::format(
          "few pictures{}: self-supervised learning from scratch needs thousands; starting from trained weights (the "
          "key init) helps",
          data_.pictures < 50 ? ", which show that a run works and little else" : ""));
    if (nothing_fits_)
      notes.push_back(fmt::format("not even a batch of 1 fits into {}; `dino_cuda plan` shows what takes how much",
                                  format_bytes(static_cast<double>(machine_.memory_bytes))));
    if (!machine_.has_gpu && data_.pictures > 200'000)
      notes.push_back("this many pictures are work for a GPU; on this CPU take a part: a text file that lists some");
    if (data_.broken > 0)
      notes.push_back(
          fmt::format("{} of {} pictures that were looked at are broken and are replaced by others, such as {}",
                      data_.broken, data_.looked_at, data_.broken_example));
    if (data_.near_copies * 100 > data_.looked_at)
      notes.push_back(
          fmt::format("{} of {} pictures look like another one, such as {}; `dino_cuda dedupe` lists them "
                      "once there are weights",
                      data_.near_copies, data_.looked_at, data_.near_copy_example));
    if (data_.classes > 1 && data_.largest_class > 10 * data_.smallest_class)
      notes.push_back(fmt::format("the classes are uneven, {} to {} pictures: k-NN accuracy favours the large ones",
                                  data_.smallest_class, data_.largest_class));
    if (data_.short_side_px.low > 0 && data_.short_side_px.low < c_.global_crops_size)
      notes.push_back(fmt::format("a part of the pictures is smaller than a global crop ({} px) and is enlarged",
                                  c_.global_crops_size));
  }

  using C = TrainConfig;
  const DataSummary& data_;
  const MachineSummary& machine_;
  SuggestedConfig result_;
  TrainConfig& c_ = result_.config;
  std::int64_t steps_per_epoch_ = 1;
  bool nothing_fits_ = false;
};

}  // namespace

SuggestedConfig suggest_config(const DataSummary& data, const MachineSummary& machine) {
  return Suggestion(data, machine).make();
}

std::string write_suggested_config(const SuggestedConfig& suggested, const std::string& title) {
  constexpr std::size_t kCommentColumn = 36;
  // File names come from elsewhere: they must not end a comment, and TOML is UTF-8.
  std::string text = fmt::format(
      "# {}\n# What is left out has the official default; all keys: dino_cuda train --help.\n", printable(title));
  for (const std::string& note : suggested.notes) text += fmt::format("# Note: {}.\n", printable(note));
  std::string_view section;
  const std::vector<ConfigKey> keys = config_keys();
  for (const ConfigKey& key : keys) {
    const auto at = std::find_if(suggested.reasons.begin(), suggested.reasons.end(),
                                 [&](const ConfigReason& reason) { return reason.key == key.name; });
    if (at == suggested.reasons.end()) continue;
    if (key.section != section) text += fmt::format("\n# {}\n", key.section);
    section = key.section;
    const std::string line = fmt::format("{} = {}", key.name, config_value(suggested.config, key.name));
    text += fmt::format("{:<{}} # {}\n", line, kCommentColumn, printable(at->reason));
  }
  return text;
}

}  // namespace dino
