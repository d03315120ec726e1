#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dino {

/// Every option of a training run. Names and defaults are those of the official main_dino.py where it has the option;
/// config_table.cpp says what each means and which values it takes.
struct TrainConfig {
  // Model
  std::string arch = "vit_small";
  int patch_size = 16;
  int embed_dim = 0;  // 0: the architecture's, also for depth and num_heads
  int depth = 0;
  int num_heads = 0;
  double drop_path_rate = 0.1;
  int out_dim = 65536;
  bool norm_last_layer = true;
  bool use_bn_in_head = false;
  int head_layers = 3;
  int head_hidden_dim = 2048;
  int head_bottleneck_dim = 256;
  std::string init;

  // Teacher and loss
  double momentum_teacher = 0.996;
  double warmup_teacher_temp = 0.04;
  double teacher_temp = 0.04;
  int warmup_teacher_temp_epochs = 0;
  double student_temp = 0.1;
  double center_momentum = 0.9;

  // Optimisation
  std::string optimizer = "adamw";
  int epochs = 100;
  int batch_size_per_gpu = 64;
  int accumulation = 1;
  double lr = 0.0005;
  int warmup_epochs = 10;
  double min_lr = 1e-6;
  double weight_decay = 0.04;
  double weight_decay_end = 0.4;
  double clip_grad = 3.0;
  int freeze_last_layer = 1;
  std::string precision = "auto";

  // Crops
  int global_crops_size = 224;
  std::array<double, 2> global_crops_scale{0.4, 1.0};
  int local_crops_number = 8;
  int local_crops_size = 96;
  std::array<double, 2> local_crops_scale{0.05, 0.4};

  // Augmentation
  double flip_prob = 0.5;
  double jitter_prob = 0.8;
  double jitter_brightness = 0.4;
  double jitter_contrast = 0.4;
  double jitter_saturation = 0.2;
  double jitter_hue = 0.1;
  double gray_prob = 0.2;
  std::array<double, 2> blur_radius{0.1, 2.0};
  double blur_prob_global1 = 1.0;
  double blur_prob_global2 = 0.1;
  double blur_prob_local = 0.5;
  double solarize_prob_global2 = 0.2;

  // Data, output and the machine
  std::string data_path;
  std::string output_dir = ".";
  int saveckp_freq = 20;
  double save_minutes = 10;
  int seed = 0;
  int num_workers = 10;
  std::string augment = "auto";
  double max_broken_share = 0.1;
  int threads = 0;
  std::string device = "auto";

  // Health
  int max_skipped_steps = 5;
  int rollbacks = 0;
  int health_images = 256;

  // Several GPUs and machines
  std::string communicator = "auto";
  std::string gradient_sums = "fp32";
  int bucket_mb = 25;
  int checksum_every = 0;
  int collective_timeout_s = 600;
  bool rank_logs = false;

  // k-NN during training
  int knn_every = 0;
  std::string knn_train_path;
  std::string knn_test_path;
  int knn_images = 5000;
  std::vector<int> knn_k{10, 20, 100, 200};
  double knn_temperature = 0.07;

  // Reports
  int report_every = 1;
  bool tensorboard = false;

  bool operator==(const TrainConfig&) const = default;
};

/// One key as the table describes it, for listings.
struct ConfigKey {
  std::string_view section;
  std::string_view name;
  std::string default_value;  // as TOML
  std::string type;           // what is expected: `a number from 0 to 1`
  std::string_view comment;
  bool is_list = false;
};

/// All keys, in the order of the written configuration.
std::vector<ConfigKey> config_keys();

/// The value of a key as TOML. Throws Error for an unknown key.
std::string config_value(const TrainConfig& config, std::string_view key);

/// Reads a TOML file over the defaults. Throws Error naming file and line, what came and what was expected; for an
/// unknown key also the nearest known one.
TrainConfig read_config(const std::filesystem::path& path);
/// The same for text; `name` stands for the file in messages.
TrainConfig parse_config(std::string_view text, std::string_view name);

/// Every key of a TOML file with its value as TOML, whatever it is called: for looking at a configuration of another
/// version. Empty where the file cannot be read.
std::map<std::string, std::string> config_values(const std::filesystem::path& path);

/// Sets one key from the command line: `lr`, `0.001`. Numbers, true and false, and text come as they are; lists with
/// commas or spaces between their values. Throws Error naming the option.
void override_config(TrainConfig& config, std::string_view key, std::string_view value);

/// Checks what concerns several keys at once. Throws Error naming them.
void check_config(const TrainConfig& config);

/// The whole configuration as TOML, a comment beside every key. parse_config(write_config(c)) == c.
std::string write_config(const TrainConfig& config);

/// Every key with its value as TOML, in the table's order.
std::vector<std::pair<std::string_view, std::string>> config_values(const TrainConfig& config);

/// The entry of `known` that is nearest to `word` by edit distance.
std::string_view nearest_name(std::string_view word, const std::vector<std::string_view>& known);

}  // namespace dino
