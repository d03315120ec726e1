#include "train/config.h"

#include "engine/files.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"

#include <filesystem>

namespace dino {
namespace {

std::string error_of(std::string_view text) {
  return test::error_of([&] { parse_config(text, "run.toml"); });
}

TEST_CASE("defaults are those of the official program") {
  const TrainConfig c = parse_config("", "run.toml");
  CHECK(c.arch == "vit_small");
  CHECK(c.patch_size == 16);
  CHECK(c.out_dim == 65536);
  CHECK(c.norm_last_layer);
  CHECK_FALSE(c.use_bn_in_head);
  CHECK(c.momentum_teacher == 0.996);
  CHECK(c.teacher_temp == 0.04);
  CHECK(c.weight_decay_end == 0.4);
  CHECK(c.clip_grad == 3.0);
  CHECK(c.lr == 0.0005);
  CHECK(c.warmup_epochs == 10);
  CHECK(c.global_crops_scale == std::array{0.4, 1.0});
  CHECK(c.local_crops_number == 8);
  CHECK(c.saveckp_freq == 20);
}

TEST_CASE("every type of key is read") {
  const TrainConfig c = parse_config(
      "arch = \"vit_tiny\"\nepochs = 3\nlr = 1e-3\nclip_grad = 0\nnorm_last_layer = false\n"
      "local_crops_scale = [0.1, 0.5]\nknn_k = [5, 7, 9]\n",
      "run.toml");
  CHECK(c.arch == "vit_tiny");
  CHECK(c.epochs == 3);
  CHECK(c.lr == 1e-3);
  CHECK(c.clip_grad == 0.0);
  CHECK_FALSE(c.norm_last_layer);
  CHECK(c.local_crops_scale == std::array{0.1, 0.5});
  CHECK(c.knn_k == std::vector{5, 7, 9});
}

TEST_CASE("errors name file, line, what came and what was expected") {
  CHECK(error_of("epochs = 3\nwarmup_epoch = 2\n") ==
        "[config] run.toml:2: unknown key warmup_epoch; try warmup_epochs");
  CHECK(error_of("batch_size = 3\n") == "[config] run.toml:1: unknown key batch_size; try batch_size_per_gpu");
  // The official script's and others' names, also misspelt; nothing where nothing is near.
  CHECK(error_of("use_fp16 = true\n") == "[config] run.toml:1: unknown key use_fp16; try precision");
  CHECK(error_of("lerning_rate = 1\n") == "[config] run.toml:1: unknown key lerning_rate; try lr");
  CHECK(error_of("dist_url = 1\n") ==
        "[config] run.toml:1: unknown key dist_url; try `dino_cuda train --print_config`, which shows all");
  CHECK(error_of("arch = vit_tiny\n").ends_with("; try quotes around texts, as in arch = \"vit_small\""));
  CHECK(error_of("\n[model]\narch = \"vit_tiny\"\n") ==
        "[config] run.toml:2: unknown table [model]; keys stand at the top level");
  CHECK(error_of("\n\nepochs = \"many\"\n") ==
        "[config] run.toml:3: wrong value for epochs; got \"many\", expected a whole number of at least 1");
  CHECK(error_of("epochs = 2.5") ==
        "[config] run.toml:1: wrong value for epochs; got 2.5, expected a whole number of at least 1");
  CHECK(error_of("epochs = 0") ==
        "[config] run.toml:1: wrong value for epochs; got 0, expected a whole number of at least 1");
  CHECK(error_of("lr = nan") == "[config] run.toml:1: wrong value for lr; got nan, expected a number of at least 0");
  CHECK(error_of("teacher_temp = 0") ==
        "[config] run.toml:1: wrong value for teacher_temp; got 0, expected a number above 0");
  CHECK(error_of("norm_last_layer = 1") ==
        "[config] run.toml:1: wrong value for norm_last_layer; got 1, expected true or false");
  CHECK(error_of("optimizer = \"adam\"") ==
        "[config] run.toml:1: wrong value for optimizer; got \"adam\", expected one of adamw, sgd, lars");
  CHECK(error_of("local_crops_scale = [0.4, 0.05]") ==
        "[config] run.toml:1: wrong value for local_crops_scale; got [0.4, 0.05], expected two numbers above 0 up to "
        "1, the smaller first");
  CHECK(error_of("knn_k = []") ==
        "[config] run.toml:1: wrong value for knn_k; got [], expected a list of whole numbers of at least 1");
  CHECK(error_of("epochs = 3\nlr = = 2\n").find("[config] run.toml:2: this is not TOML: ") == 0);
  CHECK(error_of("epochs = 3\nepochs = 4\n").find("[config] run.toml:2: this is not TOML: ") == 0);
}

TEST_CASE("the command line overrides keys") {
  TrainConfig c;
  override_config(c, "lr", "0.002");
  override_config(c, "epochs", "7");
  override_config(c, "norm_last_layer", "false");
  override_config(c, "arch", "vit_base");
  override_config(c, "data_path", "some folder/train");
  override_config(c, "global_crops_scale", "0.14 1.");
  override_config(c, "local_crops_scale", "0.05,0.14");
  override_config(c, "knn_k", "[5, 20]");
  CHECK(c.lr == 0.002);
  CHECK(c.epochs == 7);
  CHECK_FALSE(c.norm_last_layer);
  CHECK(c.arch == "vit_base");
  CHECK(c.data_path == "some folder/train");
  CHECK(c.global_crops_scale == std::array{0.14, 1.0});
  CHECK(c.local_crops_scale == std::array{0.05, 0.14});
  CHECK(c.knn_k == std::vector{5, 20});
  CHECK_THROWS_WITH(override_config(c, "epochs", "x"),
                    "[config] wrong value for --epochs; got x, expected a whole number of at least 1");
  CHECK_THROWS_WITH(override_config(c, "epoch", "3"), "[config] unknown option --epoch; try --epochs");
  CHECK_THROWS_AS(override_config(c, "epochs", ""), Error);
  CHECK_THROWS_AS(override_config(c, "epochs", "1 2"), Error);
}

TEST_CASE("the written configuration reads back as it was, with a comment beside every key") {
  TrainConfig c;
  c.lr = 0.1 + 0.2;
  c.min_lr = 1e-300;
  c.data_path = "a \"quoted\" \\ path\twith # and ünïcode";
  c.knn_k = {1, 2, 3};
  c.use_bn_in_head = true;
  const std::string text = write_config(c);
  CHECK(parse_config(text, "effective.toml") == c);
  for (const ConfigKey& key : config_keys())
    CHECK(text.find("\n" + std::string(key.name) + " = ") != std::string::npos);
  CHECK_FALSE(parse_config(text, "effective.toml") == TrainConfig());
}

TEST_CASE("keys that contradict each other are errors") {
  TrainConfig c;
  CHECK_NOTHROW(check_config(c));
  c.patch_size = 8;
  c.global_crops_size = 60;
  CHECK_THROWS_WITH(check_config(c), "[config] global_crops_size must be a multiple of patch_size; got 60 and 8");
  c = {};
  c.local_crops_size = 90;
  CHECK_THROWS_AS(check_config(c), Error);
  c.local_crops_number = 0;
  CHECK_NOTHROW(check_config(c));
  c = {};
  c.epochs = 5;
  CHECK_THROWS_WITH(check_config(c),
                    "[config] warmup_epochs must not exceed epochs; got 10 and 5; try --warmup_epochs 1");
  c.warmup_teacher_temp_epochs = 6;
  CHECK_THROWS_WITH(
      check_config(c),
      "[config] warmup_epochs and warmup_teacher_temp_epochs must not exceed epochs; got 10, 6 and 5; try "
      "--warmup_epochs 1 --warmup_teacher_temp_epochs 1");
}

TEST_CASE("the configurations that come with the program are valid") {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(test::config_dir())) {
    if (entry.path().extension() != ".toml") continue;
    INFO(entry.path().string());
    CHECK_NOTHROW(check_config(read_config(entry.path())));
    ++count;
  }
  CHECK(count >= 4);
  TrainConfig official = read_config(test::config_dir() / "imagenet_vits16.toml");
  const TrainConfig defaults;
  official.data_path = defaults.data_path;
  official.output_dir = defaults.output_dir;
  CHECK(official == defaults);
}

}  // namespace
}  // namespace dino
