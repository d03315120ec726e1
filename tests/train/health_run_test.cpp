// What a run does about steps that are not finite, and what it says about collapse: whole runs of tiny networks.
#include "train/trainer.h"

#include "engine/communicators/silent.h"
#include "engine/files.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/every_context.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_training.h"
#include "tests/support/training_scene.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <csignal>
#include <functional>
#include <limits>
#include <set>
#include <sstream>

namespace dino {
namespace {

using test::check_same_checkpoint;
using test::DrawnPictures;
using test::error_of;
using test::TemporaryFolder;
using test::tiny_config;

namespace fs = std::filesystem;

/// Spoils the gradient in some of the steps, counted as this process runs them, and may do something in one.
class Spoiler final : public SilentRank {
 public:
  explicit Spoiler(std::set<int> spoilt, int incident = -1, std::function<void()> happen = {})
      : spoilt_(std::move(spoilt)), incident_(incident), happen_(std::move(happen)) {}
  void all_reduce_sum(const Array& values, Stream&, std::string_view name) override {
    if (name != "gradients 1 of 1") return;
    if (spoilt_.contains(steps_)) values.as<float>()[16] = std::numeric_limits<float>::quiet_NaN();
    if (steps_++ == incident_) happen_();
  }

 private:
  std::set<int> spoilt_;
  int incident_, steps_ = 0;
  std::function<void()> happen_;
};

int run(Spoiler spoiler, const TrainConfig& config, const ImageSource& images, StartMode start) {
  const auto context = make_cpu_context();
  return train(*context, spoiler, config, images, start);
}

std::vector<nlohmann::ordered_json> lines_of(const fs::path& file) {
  std::vector<nlohmann::ordered_json> lines;
  std::stringstream text(read_text_file(file));
  for (std::string line; std::getline(text, line);) {
    auto json = nlohmann::ordered_json::parse(line);
    json.erase("images_per_second");
    json.erase("data_wait_share");
    lines.push_back(std::move(json));
  }
  return lines;
}

/// Kinds in the order of a run's findings, `KIND begins`.
std::vector<std::string> findings_of(const fs::path& folder) {
  std::vector<std::string> kinds;
  for (const auto& line : lines_of(folder / "health.jsonl")) {
    kinds.push_back(line.at("kind").get<std::string>() + " " + line.at("state").get<std::string>());
  }
  return kinds;
}

bool has(const std::vector<std::string>& all, const std::string& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

TEST_CASE("A run that skipped steps, was stopped and resumed equals one that was not stopped") {
  const DrawnPictures images(8);
  const TemporaryFolder folder;
  TrainConfig config = tiny_config();  // 4 steps an epoch
  config.output_dir = (folder.path() / "whole").string();
  REQUIRE(run(Spoiler({1, 5, 6}), config, images, StartMode::fresh) == 0);
  const fs::path whole = config.output_dir;
  const auto expected = lines_of(whole / "log.jsonl");
  REQUIRE(expected.size() == 12);
  for (std::size_t i = 0; i < 12; ++i) {
    const bool spoilt = i == 1 || i == 5 || i == 6;
    CHECK(expected[i].contains("skipped") == spoilt);
    CHECK(expected[i].at("loss").is_number());  // only the gradient was spoilt
    CHECK(expected[i].at("grad_norm").is_null() == spoilt);
  }
  CHECK(expected[1].at("skipped") == "the gradient of backbone.cls_token");
  CHECK(findings_of(whole) ==
        std::vector<std::string>{"skipped_step once", "skipped_step once", "not_finite begins", "skipped_step once"});
  CHECK(lines_of(whole / "health.jsonl").front().at("step") == 1);
  CHECK(SafetensorsFile::read(whole / kLastCheckpoint).metadata("healthy") == "false");
  // Skipped steps are no updates.
  const SafetensorsFile last = SafetensorsFile::read(whole / kLastCheckpoint);
  CHECK(last["optimizer.update_counts"].as<std::int64_t>()[0] == 9);

  for (const int stop : {0, 1, 5, 6, 7}) {
    INFO("stopped in step " << stop);
    config.output_dir = (folder.path() / std::to_string(stop)).string();
    REQUIRE(run(Spoiler({1, 5, 6}, stop, [] { std::raise(SIGTERM); }), config, images, StartMode::fresh) ==
            128 + SIGTERM);
    std::set<int> rest;
    for (const int step : {1, 5, 6}) {
      if (step > stop) rest.insert(step - stop - 1);
    }
    REQUIRE(run(Spoiler(rest), config, images, StartMode::resume) == 0);
    check_same_checkpoint(fs::path(config.output_dir) / kLastCheckpoint, whole / kLastCheckpoint);
    for (const char* name : {"log.jsonl", "health.jsonl"})
      CHECK(lines_of(fs::path(config.output_dir) / name) == lines_of(whole / name));
  }
}

TEST_CASE("A run that skips too many steps ends, and keeps the checkpoint from before") {
  const DrawnPictures images(8);
  const TemporaryFolder folder;
  TrainConfig config = tiny_config();
  config.max_skipped_steps = 2;
  config.output_dir = folder.path().string();
  std::string checkpoint;
  // Steps 4, 6 and 7 of the second epoch; step 2, of the first, counts as well: four steps later than the third skip
  // would be step 10, but the epoch ends before.
  const auto look = [&] { checkpoint = read_text_file(folder.path() / kLastCheckpoint); };
  const std::string error = error_of([&] { run(Spoiler({2, 4, 6}, 7, look), config, images, StartMode::fresh); });
  INFO(error);
  CHECK(
      error.starts_with("[train] 3 of the last 100 steps were skipped, step 6 too (not finite: the gradient of "
                        "backbone.cls_token); " +
                        (folder.path() / kLastCheckpoint).string() + " is the last good checkpoint; try a smaller lr"));
  CHECK(error.find('\n') == std::string::npos);
  CHECK(lines_of(folder.path() / "log.jsonl").size() == 8);
  REQUIRE_FALSE(checkpoint.empty());
  CHECK(read_text_file(folder.path() / kLastCheckpoint) == checkpoint);
  // It goes on from there.
  CHECK(run(Spoiler({}), config, images, StartMode::resume) == 0);
  CHECK(lines_of(folder.path() / "log.jsonl").size() == 12);
}

TEST_CASE("A run goes back to its last healthy epoch, with half the learning rate") {
  const DrawnPictures images(12);
  const TemporaryFolder folder;
  TrainConfig config = tiny_config();  // 6 steps an epoch
  config.max_skipped_steps = 0;
  config.rollbacks = 1;
  config.output_dir = (folder.path() / "plain").string();
  REQUIRE(run(Spoiler({}), config, images, StartMode::fresh) == 0);
  const auto plain = lines_of(folder.path() / "plain" / "log.jsonl");
  REQUIRE(plain.size() == 18);

  // Step 7, the second of the second epoch, is spoilt the first time that it is run.
  config.output_dir = (folder.path() / "whole").string();
  REQUIRE(run(Spoiler({7}), config, images, StartMode::fresh) == 0);
  const fs::path whole = config.output_dir;
  const auto lines = lines_of(whole / "log.jsonl");
  REQUIRE(lines.size() == 18);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    CHECK(lines[i].at("step") == i);
    CHECK_FALSE(lines[i].contains("skipped"));
    CHECK(lines[i].at("lr").get<double>() == (i < 6 ? 1 : 0.5) * plain[i].at("lr").get<double>());
    if (i < 6) CHECK(lines[i] == plain[i]);
  }
  // The first step after it starts from the same weights.
  CHECK(lines[6].at("loss") == plain[6].at("loss"));
  CHECK(lines[9].at("loss") != plain[9].at("loss"));
  const auto health = lines_of(whole / "health.jsonl");
  REQUIRE(health.size() == 1);
  CHECK(health[0].at("kind") == "rolled_back");
  CHECK(health[0].at("step") == 5);
  CHECK(health[0].at("evidence").at("from_step") == 11);  // four steps after step 7
  CHECK(health[0].at("message").get<std::string>().find(
            "step 7 too (not finite: the gradient of backbone.cls_token)") != std::string::npos);

  // Steps as the process counts them: 0 to 5, 6 to 10, then 6 again as the 11th.
  for (const int stop : {3, 7, 8, 10, 11, 17}) {
    INFO("stopped in the " << stop << ". step");
    config.output_dir = (folder.path() / std::to_string(stop)).string();
    REQUIRE(run(Spoiler({7}, stop, [] { std::raise(SIGTERM); }), config, images, StartMode::fresh) == 128 + SIGTERM);
    REQUIRE(run(Spoiler(stop < 7 ? std::set{7 - stop - 1} : std::set<int>{}), config, images, StartMode::resume) == 0);
    check_same_checkpoint(fs::path(config.output_dir) / kLastCheckpoint, whole / kLastCheckpoint);
    CHECK(lines_of(fs::path(config.output_dir) / "log.jsonl") == lines);
    // Where the run was stopped on the way to going back, it did so at once.
    auto found = lines_of(fs::path(config.output_dir) / "health.jsonl");
    REQUIRE(found.size() == 1);
    CHECK(found[0].at("kind") == "rolled_back");
  }

  // Once, and not again.
  config.output_dir = (folder.path() / "again").string();
  const std::string error = error_of([&] { run(Spoiler({7, 12}), config, images, StartMode::fresh); });
  CHECK(error.starts_with("[train] 1 of the last 100 steps were skipped, step 7 too"));
}

TEST_CASE("A run that was told to go back when it had no healthy epoch to go back to does as without") {
  const DrawnPictures images(12);
  const TemporaryFolder folder;
  TrainConfig config = tiny_config();
  config.max_skipped_steps = 0;
  config.output_dir = folder.path().string();
  REQUIRE(run(Spoiler({}, 2, [] { std::raise(SIGTERM); }), config, images, StartMode::fresh) == 128 + SIGTERM);
  config.rollbacks = 1;
  // In the middle of the first epoch there is none; at its end there is.
  CHECK(error_of([&] { run(Spoiler({1}), config, images, StartMode::resume); }).starts_with("[train] 1 of the last"));
  CHECK_FALSE(fs::exists(folder.path() / kHealthyCheckpoint));
  CHECK(run(Spoiler({5}), config, images, StartMode::resume) == 0);
  CHECK(findings_of(folder.path()) == std::vector<std::string>{"rolled_back once"});
}

TEST_CASE("A new run does not begin among the checkpoints of another one, to which it might go back") {
  const DrawnPictures images(12);
  const TemporaryFolder folder;
  TrainConfig config = tiny_config();
  config.epochs = 1;
  config.rollbacks = 1;
  config.max_skipped_steps = 0;
  config.output_dir = folder.path().string();
  REQUIRE(run(Spoiler({}), config, images, StartMode::fresh) == 0);
  // What is left where somebody has removed the run's own files.
  for (const char* name : {kLastCheckpoint, kPreviousCheckpoint, "log.jsonl"}) fs::remove(folder.path() / name);
  for (const char* name : {"healthy.safetensors", "best.safetensors", "epoch_0010.safetensors"}) {
    const std::string before = read_text_file(folder.path() / kHealthyCheckpoint);
    fs::rename(folder.path() / kHealthyCheckpoint, folder.path() / "moved");
    fs::rename(folder.path() / "moved", folder.path() / name);
    for (const int rollbacks : {0, 1}) {
      config.rollbacks = rollbacks;
      CHECK(error_of([&] { run(Spoiler({}), config, images, StartMode::fresh); }) ==
            fmt::format("[train] {} holds {} of another run; try another --output_dir, or moving it away",
                        folder.path().string(), name));
      CHECK_FALSE(fs::exists(folder.path() / kLastCheckpoint));
    }
    CHECK(read_text_file(folder.path() / name) == before);
    fs::rename(folder.path() / name, folder.path() / kHealthyCheckpoint);
  }
}

TEST_CASE("A run that goes on from an older checkpoint does not go back to a later one") {
  const DrawnPictures images(12);
  const TemporaryFolder folder;
  TrainConfig config = tiny_config();  // 3 epochs of 6 steps
  config.max_skipped_steps = 0;
  config.rollbacks = 1;
  config.saveckp_freq = 1;
  config.output_dir = folder.path().string();
  REQUIRE(run(Spoiler({}), config, images, StartMode::fresh) == 0);
  REQUIRE(SafetensorsFile::read(folder.path() / kHealthyCheckpoint).metadata("step") == "18");
  const auto from_first_epoch = [&] {
    fs::remove(folder.path() / kLastCheckpoint);  // not written over: the healthy one is another name of that file
    fs::copy_file(folder.path() / "epoch_0001.safetensors", folder.path() / kLastCheckpoint);
  };
  from_first_epoch();
  REQUIRE(run(Spoiler({1}), config, images, StartMode::resume) == 0);  // step 7
  const auto health = lines_of(folder.path() / "health.jsonl");
  REQUIRE(health.size() == 1);
  CHECK(health[0].at("kind") == "rolled_back");
  CHECK(health[0].at("step") == 5);
  CHECK(health[0].at("evidence").at("from_step") == 11);
  CHECK(lines_of(folder.path() / "log.jsonl").size() == 18);

  // In the middle of an epoch there is nothing to go back to.
  REQUIRE(SafetensorsFile::read(folder.path() / kHealthyCheckpoint).metadata("step") == "18");
  from_first_epoch();
  config.rollbacks = 0;
  REQUIRE(run(Spoiler({}, 1, [] { std::raise(SIGTERM); }), config, images, StartMode::resume) == 128 + SIGTERM);
  config.rollbacks = 1;
  CHECK(error_of([&] { run(Spoiler({1}), config, images, StartMode::resume); }).starts_with("[train] 1 of the last"));
}

void check_overflow(Context& context);
TEST_CASE("Devices whose results come late go back and end where the others do", "[device]") {
  test::every_context(check_overflow);
}
void check_overflow(Context& context) {
  const DrawnPictures images(12);
  const TemporaryFolder folder;
  TrainConfig config = tiny_config();
  config.optimizer = "sgd";
  config.lr = 1e36;  // the first update that has a learning rate is the last that is finite
  config.clip_grad = 0;
  config.max_skipped_steps = 1;
  config.rollbacks = 1;
  config.output_dir = folder.path().string();
  SingleProcess communicator;
  const std::string error = error_of([&] { train(context, communicator, config, images, StartMode::fresh); });
  INFO(error);
  // Step 0 has no learning rate. Step 1 makes the weights far too large, steps 2 and 3 are skipped, and before step 7,
  // or here at the end of the first epoch, the run goes back to its start; then once more.
  CHECK(error.starts_with("[train] 2 of the last 100 steps were skipped, step 3 too (not finite: the "));
  CHECK(error.find("'s logits)") != std::string::npos);
  const auto lines = lines_of(folder.path() / "log.jsonl");
  REQUIRE(lines.size() == 6);
  for (std::size_t i = 0; i < 6; ++i) CHECK(lines[i].contains("skipped") == (i >= 2));
  const auto found = findings_of(folder.path());
  CHECK(std::count(found.begin(), found.end(), "rolled_back once") == 1);
  CHECK(std::count(found.begin(), found.end(), "skipped_step once") == 4);  // those before are not of this run any more
  CHECK(SafetensorsFile::read(folder.path() / kLastCheckpoint).metadata("rollbacks") == "1");
}

/// A run of epochs of 8 steps on pictures that differ, and what the watch found in it.
std::vector<std::string> findings_with(const std::function<void(TrainConfig&)>& set) {
  const DrawnPictures images(64);
  const TemporaryFolder folder;
  TrainConfig config = tiny_config();
  config.epochs = 20;
  config.batch_size_per_gpu = 8;
  config.norm_last_layer = false;
  config.lr = 0.1;
  config.momentum_teacher = 0.98;
  config.output_dir = folder.path().string();
  set(config);
  const auto context = make_cpu_context();
  SingleProcess alone;
  REQUIRE(train(*context, alone, config, images, StartMode::fresh) == 0);
  const auto log = lines_of(folder.path() / "log.jsonl");
  REQUIRE(log.size() == static_cast<std::size_t>(8 * config.epochs));
  INFO("at the end: " << log.back().dump());
  for (const auto& line : log) CHECK(line.at("center_norm").is_number());
  return findings_of(folder.path());
}

TEST_CASE("Runs that are made to collapse are named, and a healthy one is not") {
  CHECK(findings_with([](TrainConfig&) {}) == std::vector<std::string>{});
  const auto hot = findings_with([](TrainConfig& c) { c.warmup_teacher_temp = c.teacher_temp = 1; });
  CHECK(has(hot, "uniform_outputs begins"));
  CHECK_FALSE(has(hot, "uniform_outputs ends"));
  const auto not_centered = findings_with([](TrainConfig& c) { c.center_momentum = 1; });
  CHECK(has(not_centered, "one_output begins"));
  CHECK_FALSE(has(not_centered, "one_output ends"));
  CHECK_FALSE(has(not_centered, "uniform_outputs begins"));
  const auto cold = findings_with([](TrainConfig& c) { c.warmup_teacher_temp = c.teacher_temp = 0.001; });
  CHECK(has(cold, "sharp_teacher begins"));
  const auto still = findings_with([](TrainConfig& c) {
    c.lr = c.min_lr = 0;
    c.epochs = 73;
  });
  CHECK(still == std::vector<std::string>{"loss_stuck begins"});
}

}  // namespace
}  // namespace dino
