// Whole training runs of tiny networks: going on after a stop, adding up micro-batches, every kind of optimiser.
#include "train/trainer.h"

#include "data/sampler.h"
#include "engine/communicators/silent.h"
#include "engine/files.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/every_context.h"
#include "tests/support/host_array.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_training.h"
#include "tests/support/training_scene.h"
#include "train/stop_signal.h"

#include <nlohmann/json.hpp>

#include <csignal>
#include <cstring>
#include <map>
#include <set>
#include <sstream>

namespace dino {
namespace {

using test::check_close;
using test::check_same_checkpoint;
using test::check_same_run;
using test::DrawnPictures;
using test::error_of;
using test::TemporaryFolder;
using test::tiny_config;

/// Does something in the middle of the n-th optimiser step, counted from 0 in this process.
class Incident final : public SilentRank {
 public:
  Incident(int step, std::function<void()> happen) : step_(step), happen_(std::move(happen)) {}
  void all_reduce_sum(const Array&, Stream&, std::string_view name) override {
    if (name == "losses" && steps_++ == step_) happen_();
  }

 private:
  int step_;
  int steps_ = 0;
  std::function<void()> happen_;
};

struct Crash : std::runtime_error {
  Crash() : std::runtime_error("crash") {}
};

int run(const TrainConfig& config, const ImageSource& images, StartMode start, const Evaluator& evaluator = {}) {
  const auto context = make_cpu_context();
  SingleProcess communicator;
  return train(*context, communicator, config, images, start, evaluator);
}

int run_with(Incident incident, const TrainConfig& config, const ImageSource& images, StartMode start,
             const Evaluator& evaluator = {}) {
  const auto context = make_cpu_context();
  return train(*context, incident, config, images, start, evaluator);
}

/// The log without what depends on the machine's speed.
std::vector<std::string> log_lines(const std::filesystem::path& folder, const char* name = "log.jsonl") {
  return test::log_lines(folder / name);
}

/// A score that depends on the networks.
Evaluation center_score(StudentTeacher& networks) {
  double sum = 0;
  for (std::int64_t i = 0; i < networks.center().size(); ++i)
    sum += std::abs(load_double(networks.center().const_array(), i));
  return {.score = sum,
          .summary = "measured",
          .numbers = std::make_shared<nlohmann::ordered_json>(nlohmann::ordered_json{{"center", sum}})};
}

// 11 pictures, 2 micro-batches of 2 a step: an epoch has 5 micro-batches, so 2 steps and one left over.
// 12 pictures, 1 of 3: 4 steps and nothing left over.
struct Course {
  int pictures, batch, accumulation;
  std::vector<int> stops;  // within an epoch, after its last step, after the last of all
};
const Course kCourses[] = {{11, 2, 2, {0, 1, 2, 5}}, {12, 3, 1, {1, 3, 4, 11}}};

TEST_CASE("A run that was stopped and resumed equals one that was not, bit for bit") {
  for (const Course& course : kCourses) {
    const DrawnPictures images(course.pictures);
    const TemporaryFolder folder;
    TrainConfig config = tiny_config();
    config.batch_size_per_gpu = course.batch;
    config.accumulation = course.accumulation;
    config.knn_every = 1;
    config.output_dir = (folder.path() / "whole").string();
    REQUIRE(run(config, images, StartMode::fresh, center_score) == 0);
    const std::filesystem::path whole = config.output_dir;
    const int steps_per_epoch = course.pictures / course.batch / course.accumulation;
    const auto expected = log_lines(whole);
    REQUIRE(expected.size() == static_cast<std::size_t>(3 * steps_per_epoch));

    for (const int step : course.stops) {
      for (const bool crash : {false, true}) {
        INFO(course.pictures << " pictures, " << (crash ? "crashed" : "interrupted") << " at step " << step);
        config.output_dir = (folder.path() / fmt::format("{}{}", crash ? "crash" : "stop", step)).string();
        config.num_workers = 1;
        if (crash) {
          REQUIRE_THROWS_AS(
              run_with(Incident(step, [] { throw Crash(); }), config, images, StartMode::fresh, center_score), Crash);
        } else {
          const int status =
              run_with(Incident(step, [] { std::raise(SIGTERM); }), config, images, StartMode::fresh, center_score);
          REQUIRE(status == 128 + SIGTERM);
          REQUIRE(log_lines(config.output_dir).size() == static_cast<std::size_t>(step + 1));
        }
        config.num_workers = 3;
        config.augment = crash ? "device" : "auto";  // the same crops
        REQUIRE(run(config, images, StartMode::resume, center_score) == 0);
        check_same_checkpoint(std::filesystem::path(config.output_dir) / kLastCheckpoint, whole / kLastCheckpoint);
        check_same_checkpoint(std::filesystem::path(config.output_dir) / kBestCheckpoint, whole / kBestCheckpoint);
        CHECK(log_lines(config.output_dir) == expected);
        CHECK(log_lines(config.output_dir, "knn.jsonl") == log_lines(whole, "knn.jsonl"));
      }
    }
  }
}

TEST_CASE("A run goes on from its last step after a crash in any step, where every step is saved") {
  const DrawnPictures images(11);
  for (const char* precision : {"fp32", "bf16"}) {
    const TemporaryFolder folder;
    TrainConfig config = tiny_config();
    config.accumulation = 2;
    config.drop_path_rate = 0.3;
    config.knn_every = 1;
    config.precision = precision;
    config.output_dir = (folder.path() / "whole").string();
    REQUIRE(run(config, images, StartMode::fresh, center_score) == 0);
    const std::filesystem::path whole = config.output_dir;
    for (int step = 0; step < 6; ++step) {
      INFO(precision << ", step " << step);
      config.output_dir = (folder.path() / std::to_string(step)).string();
      config.save_minutes = 1e-9;
      REQUIRE_THROWS_AS(run_with(Incident(step, [] { throw Crash(); }), config, images, StartMode::fresh, center_score),
                        Crash);
      const std::filesystem::path last = folder.path() / std::to_string(step) / kLastCheckpoint;
      CHECK(SafetensorsFile::read(last).metadata("step") == std::to_string(step));
      config.save_minutes = 0;
      REQUIRE(run(config, images, StartMode::resume, center_score) == 0);
      check_same_run(config.output_dir, whole);
    }
  }
}

TEST_CASE("Signals that ask for saving are told apart by what the run ends with") {
  const DrawnPictures images(4);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1}) {
    const TemporaryFolder folder;
    TrainConfig config = tiny_config();
    config.output_dir = folder.path().string();
    struct sigaction before {};
    REQUIRE(sigaction(signal, nullptr, &before) == 0);
    const int status = run_with(Incident(1, [&] { std::raise(signal); }), config, images, StartMode::fresh);
    CHECK(status == (signal == SIGUSR1 ? 75 : 128 + signal));
    CHECK(SafetensorsFile::read(folder.path() / kLastCheckpoint).metadata("step") == "2");
    struct sigaction after {};
    REQUIRE(sigaction(signal, nullptr, &after) == 0);
    CHECK(after.sa_handler == before.sa_handler);
  }
}

void check_late_run(Context& context);
TEST_CASE("A run on any device that was stopped and resumed equals one that was not", "[device]") {
  test::every_context(check_late_run);
}
void check_late_run(Context& context) {
  const DrawnPictures images(11);
  const TemporaryFolder folder;
  TrainConfig config = tiny_config();
  config.accumulation = 2;
  config.drop_path_rate = 0.3;
  config.warmup_teacher_temp_epochs = 2;
  config.output_dir = (folder.path() / "whole").string();
  SingleProcess communicator;
  REQUIRE(train(context, communicator, config, images, StartMode::fresh) == 0);
  const auto expected = log_lines(config.output_dir);
  REQUIRE(expected.size() == 6);
  const std::filesystem::path whole = config.output_dir;

  config.output_dir = (folder.path() / "stopped").string();
  Incident stop(1, [] { std::raise(SIGTERM); });
  REQUIRE(train(context, stop, config, images, StartMode::fresh) == 128 + SIGTERM);
  REQUIRE(log_lines(config.output_dir).size() == 2);
  REQUIRE(train(context, communicator, config, images, StartMode::resume) == 0);
  check_same_checkpoint(std::filesystem::path(config.output_dir) / kLastCheckpoint, whole / kLastCheckpoint);
  CHECK(log_lines(config.output_dir) == expected);
}

TEST_CASE("A run that was stopped in an evaluation begins with it when it is resumed") {
  const DrawnPictures images(11);
  const TemporaryFolder folder;
  TrainConfig config = tiny_config();
  config.accumulation = 2;
  config.knn_every = 1;
  config.output_dir = (folder.path() / "whole").string();
  REQUIRE(run(config, images, StartMode::fresh, center_score) == 0);
  const std::filesystem::path whole = config.output_dir;
  REQUIRE(log_lines(whole, "knn.jsonl").size() == 4);  // before the first of three epochs as well

  for (const int stop : {0, 1, 3}) {
    INFO("in evaluation " << stop);
    config.output_dir = (folder.path() / std::to_string(stop)).string();
    int evaluations = 0;
    const auto stopped = [&](StudentTeacher& networks) {
      if (evaluations++ == stop) std::raise(SIGINT);
      StopSignal::check();
      return center_score(networks);
    };
    REQUIRE(run(config, images, StartMode::fresh, stopped) == 128 + SIGINT);
    REQUIRE(evaluations == stop + 1);
    REQUIRE(run(config, images, StartMode::resume, center_score) == 0);
    for (const char* name : {kLastCheckpoint, kBestCheckpoint})
      check_same_checkpoint(std::filesystem::path(config.output_dir) / name, whole / name);
    for (const char* name : {"log.jsonl", "knn.jsonl"})
      CHECK(log_lines(config.output_dir, name) == log_lines(whole, name));
  }
}

/// Gives up at the end of an epoch, as the film does after a signal; -1: before the first.
class GivesUp final : public RunObserver {
 public:
  explicit GivesUp(std::int64_t epoch) : epoch_(epoch) {}
  void started(const PauseReport& pause) override { epoch_done(pause); }
  void epoch_done(const PauseReport& pause) override {
    if (pause.epoch == epoch_) std::raise(SIGINT);
    StopSignal::check();
  }

 private:
  std::int64_t epoch_;
};

TEST_CASE("A run that was stopped in what its observers do begins with it when it is resumed") {
  const DrawnPictures images(11);
  for (const int knn_every : {0, 1, 2}) {
    const TemporaryFolder folder;
    TrainConfig config = tiny_config();
    config.accumulation = 2;
    config.knn_every = knn_every;
    config.saveckp_freq = 1;
    config.output_dir = (folder.path() / "whole").string();
    REQUIRE(run(config, images, StartMode::fresh, center_score) == 0);
    const std::filesystem::path whole = config.output_dir;
    for (const int epoch : {-1, 0, 1, 2}) {
      INFO("k-NN every " << knn_every << ", after epoch " << epoch);
      config.output_dir = (folder.path() / std::to_string(epoch)).string();
      const auto context = make_cpu_context();
      SingleProcess communicator;
      REQUIRE(train(*context, communicator, config, images, StartMode::fresh, center_score,
                    {std::make_shared<GivesUp>(epoch)}) == 128 + SIGINT);
      REQUIRE(log_lines(config.output_dir).size() == static_cast<std::size_t>(2 * (epoch + 1)));
      REQUIRE(run(config, images, StartMode::resume, center_score) == 0);
      for (const char* name : {kLastCheckpoint, kBestCheckpoint, "epoch_0001.safetensors", "epoch_0003.safetensors"})
        check_same_checkpoint(std::filesystem::path(config.output_dir) / name, whole / name);
      for (const char* name : {"log.jsonl", "knn.jsonl", "health.jsonl"})
        CHECK(log_lines(config.output_dir, name) == log_lines(whole, name));
    }
  }
}

TEST_CASE("A run goes on where an evaluation fails") {
  const DrawnPictures images(8);
  const TemporaryFolder folder;
  TrainConfig config = tiny_config();
  config.knn_every = 1;
  config.output_dir = folder.path().string();
  const auto failing = [](StudentTeacher&) -> Evaluation { fail("knn", "the labelled pictures went away"); };
  CHECK(run(config, images, StartMode::fresh, failing) == 0);
  CHECK(log_lines(folder.path()).size() == 12);
  CHECK(log_lines(folder.path(), "knn.jsonl").empty());
}

TEST_CASE("Resuming a finished run changes nothing, and more epochs go on from it") {
  const DrawnPictures images(8);
  const TemporaryFolder folder;
  TrainConfig config = tiny_config();
  config.epochs = 1;
  config.output_dir = (folder.path() / "run").string();
  REQUIRE(run(config, images, StartMode::fresh) == 0);
  const std::string before = read_text_file(folder.path() / "run" / kLastCheckpoint);
  const auto lines = log_lines(config.output_dir);
  REQUIRE(run(config, images, StartMode::resume) == 0);
  CHECK(read_text_file(folder.path() / "run" / kLastCheckpoint) == before);
  CHECK(log_lines(config.output_dir) == lines);
  config.epochs = 2;
  REQUIRE(run(config, images, StartMode::resume) == 0);
  CHECK(log_lines(config.output_dir).size() == 2 * lines.size());
}

/// Every file of a folder.
std::map<std::string, std::string> contents(const std::filesystem::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    files[entry.path().filename().string()] = read_text_file(entry.path());
  return files;
}

TEST_CASE("A damaged checkpoint is refused, and every file of the run stays as it is") {
  const DrawnPictures images(4);
  const TemporaryFolder folder;
  TrainConfig config = tiny_config();
  config.epochs = 1;
  config.output_dir = folder.path().string();
  REQUIRE(run(config, images, StartMode::fresh) == 0);
  std::filesystem::remove(folder.path() / kPreviousCheckpoint);
  std::string whole = read_text_file(folder.path() / kLastCheckpoint);
  // As older versions wrote it, without a checksum: what is wrong in it must be found all the same.
  const std::size_t checksum = whole.find("\"checksum\":");
  REQUIRE(checksum != std::string::npos);
  whole[checksum + 1] = 'C';
  const auto changed = [&](std::string_view from, std::string_view to) {
    std::string text = whole;
    const std::size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    REQUIRE(from.size() == to.size());
    return text.replace(at, to.size(), to);
  };
  const std::map<std::string, std::string> damages = {
      {"empty", ""},
      {"cut in the header", whole.substr(0, 100)},
      {"cut by one byte", whole.substr(0, whole.size() - 1)},
      {"zeros", std::string(whole.size(), '\0')},
      {"text", "these are not the weights you are looking for"},
      {"no center", changed("\"center\"", "\"renter\"")},
      {"no second moment",
       changed("optimizer.second_moment.backbone.cls_token", "optimizer.second_moment.backbone.cls_tokem")},
      {"another shape", changed("\"dtype\":\"F32\",\"shape\":[48]", "\"dtype\":\"I32\",\"shape\":[48]")},
      {"position", changed("\"step\":\"2\"", "\"step\":\"x\"")},
      {"no position", changed("\"batch\":\"0\",", "\"batch\":\"-\",")},
      {"score", changed("\"best_score\":\"-1\"", "\"best_score\":\"a1\"")},
      {"config", changed("patch_size = 8", "patch_size = x")}};
  for (const auto& [what, content] : damages) {
    INFO(what);
    folder.write(kLastCheckpoint, content);
    const auto before = contents(folder.path());
    const std::string error = error_of([&] { run(config, images, StartMode::resume); });
    INFO(error);
    CHECK(error.starts_with("[checkpoint] " + (folder.path() / kLastCheckpoint).string() + " is damaged: "));
    CHECK(error.find("; try ") != std::string::npos);
    CHECK(error.find('\n') == std::string::npos);
    CHECK(contents(folder.path()) == before);
  }
  // Sound, but of another run.
  folder.write(kLastCheckpoint, whole);
  const auto before = contents(folder.path());
  config.student_temp = 0.2;
  CHECK(error_of([&] { run(config, images, StartMode::resume); }).find("student_temp = 0.1; got 0.2") !=
        std::string::npos);
  config.student_temp = 0.1;
  CHECK(error_of([&] { run(config, DrawnPictures(20), StartMode::resume); }).find("try the pictures and epochs") !=
        std::string::npos);
  CHECK(error_of([&] { run(config, images, StartMode::fresh); }).find("holds a run already") != std::string::npos);
  CHECK(contents(folder.path()) == before);
  CHECK(run(config, images, StartMode::resume) == 0);
}

TEST_CASE("A damaged checkpoint does not take the place of the sound one before it") {
  const DrawnPictures images(4);
  const TemporaryFolder folder;
  TrainConfig config = tiny_config();
  config.epochs = 1;
  config.output_dir = folder.path().string();
  REQUIRE(run(config, images, StartMode::fresh) == 0);
  const auto sound = contents(folder.path());
  folder.write(kLastCheckpoint, "damaged");
  REQUIRE(run(config, images, StartMode::resume) == 0);  // saves once
  CHECK(contents(folder.path()).at(kLastCheckpoint) == sound.at(kLastCheckpoint));
  CHECK(contents(folder.path()).at(kPreviousCheckpoint) == sound.at(kPreviousCheckpoint));
}

TEST_CASE("A run that failed before its first step can be resumed, and is not overwritten") {
  const DrawnPictures images(4);
  const TemporaryFolder folder;
  TrainConfig config = tiny_config();
  config.epochs = 1;
  config.output_dir = folder.path().string();
  REQUIRE_THROWS_AS(run_with(Incident(0, [] { throw Crash(); }), config, images, StartMode::fresh), Crash);
  CHECK_THROWS_AS(run(config, images, StartMode::fresh), Error);
  CHECK(run(config, images, StartMode::resume) == 0);
  CHECK(log_lines(folder.path()).size() == 2);
}

TEST_CASE("Two micro-batches make the step of one batch of twice the size") {
  const DrawnPictures images(16);
  const TemporaryFolder folder;
  TrainConfig config = tiny_config();
  config.optimizer = "sgd";  // the step is in proportion to the gradient; Adam's first steps are its sign
  config.drop_path_rate = 0.5;
  config.freeze_last_layer = 0;
  config.norm_last_layer = false;
  config.epochs = 1;
  config.warmup_epochs = 0;
  config.batch_size_per_gpu = 4;
  config.output_dir = (folder.path() / "one").string();
  REQUIRE(run(config, images, StartMode::fresh) == 0);
  config.batch_size_per_gpu = 2;
  config.accumulation = 2;
  config.output_dir = (folder.path() / "two").string();
  REQUIRE(run(config, images, StartMode::fresh) == 0);

  const auto one = log_lines(folder.path() / "one");
  const auto two = log_lines(folder.path() / "two");
  REQUIRE((one.size() == 4 && two.size() == 4));
  for (std::size_t i = 0; i < one.size(); ++i) {
    const auto a = nlohmann::json::parse(one[i]);
    const auto b = nlohmann::json::parse(two[i]);
    for (const char* key : {"loss", "grad_norm", "entropy", "kl", "lr"}) {
      const double expected = a.at(key).get<double>();
      INFO("step " << i << ", " << key << ": got " << b.at(key) << ", expected " << expected);
      CHECK(std::abs(b.at(key).get<double>() - expected) <= 2e-5 * std::abs(expected));
    }
  }
  const SafetensorsFile expected = SafetensorsFile::read(folder.path() / "one" / kLastCheckpoint);
  const SafetensorsFile got = SafetensorsFile::read(folder.path() / "two" / kLastCheckpoint);
  for (const std::string& name : expected.names()) {
    if (name == "optimizer.update_counts" || name.starts_with("optimizer.second_moment")) continue;
    // The key third of this bias has no true gradient, so its momentum is rounding.
    const bool rounding = name.starts_with("optimizer.") && name.ends_with("qkv.bias");
    check_close(got[name], expected[name], rounding ? 1e-2 : 5e-5, name);
  }
}

/// Largest change of a tensor in the checkpoint `after`; infinite where one is not finite.
double change(const SafetensorsFile& before, const SafetensorsFile& after, const std::string& name) {
  return test::difference(after[name], before[name]).largest;
}

TEST_CASE("Every optimiser and every variant of the networks trains") {
  struct Variant {
    const char* name;
    void (*set)(TrainConfig&);
  };
  const Variant variants[] = {{"adamw", [](TrainConfig&) {}},
                              {"sgd", [](TrainConfig& c) { c.optimizer = "sgd"; }},
                              {"lars", [](TrainConfig& c) { c.optimizer = "lars"; }},
                              {"batch norm", [](TrainConfig& c) { c.use_bn_in_head = true; }},
                              {"drop path", [](TrainConfig& c) { c.drop_path_rate = 0.5; }},
                              {"no drop path", [](TrainConfig& c) { c.drop_path_rate = 0; }},
                              {"free last layer", [](TrainConfig& c) { c.norm_last_layer = false; }},
                              {"one-layer head", [](TrainConfig& c) { c.head_layers = 1; }},
                              {"no local crops", [](TrainConfig& c) { c.local_crops_number = 0; }},
                              {"no clipping", [](TrainConfig& c) { c.clip_grad = 0; }},
                              {"bf16", [](TrainConfig& c) { c.precision = "bf16"; }}};
  const DrawnPictures images(8);
  for (const Variant& variant : variants) {
    INFO(variant.name);
    const TemporaryFolder folder;
    TrainConfig config = tiny_config();
    config.epochs = 1;
    config.warmup_epochs = 0;
    config.freeze_last_layer = 0;
    config.momentum_teacher = 0.9;
    config.output_dir = folder.path().string();
    variant.set(config);
    // The checkpoint of the state before the first step, which is there in the middle of it.
    const std::filesystem::path initial = folder.path() / "initial.safetensors";
    Incident copy(0, [&] { std::filesystem::copy_file(folder.path() / kLastCheckpoint, initial); });
    REQUIRE(run_with(std::move(copy), config, images, StartMode::fresh) == 0);
    const auto lines = log_lines(folder.path());
    REQUIRE(lines.size() == 4);
    for (const std::string& line : lines) {
      const auto json = nlohmann::json::parse(line);
      REQUIRE(json.at("loss").is_number());  // NaN would be null
      CHECK(json.at("loss").get<double>() > 0);
      CHECK(json.at("grad_norm").get<double>() > 0);
    }
    const SafetensorsFile before = SafetensorsFile::read(initial);
    const SafetensorsFile after = SafetensorsFile::read(folder.path() / kLastCheckpoint);
    for (const std::string& name : after.names()) {
      if (!name.starts_with("student.") && !name.starts_with("teacher.") && name != "center") continue;
      INFO(name);
      const double moved = change(before, after, name);
      CHECK(std::isfinite(moved));
      // With norm_last_layer the rows' lengths are fixed at 1.
      const bool fixed = name.ends_with("weight_g") && config.norm_last_layer;
      if (fixed) CHECK(moved == 0);
      if (!fixed) CHECK(moved > 0);
    }
  }
}

TEST_CASE("The last layer stays as it is while it is frozen, and norm_last_layer fixes its rows' lengths") {
  const DrawnPictures images(4);
  for (const int frozen_epochs : {0, 1}) {
    const TemporaryFolder folder;
    TrainConfig config = tiny_config();
    config.epochs = 1;
    config.warmup_epochs = 0;
    config.freeze_last_layer = frozen_epochs;
    config.output_dir = folder.path().string();
    const std::filesystem::path initial = folder.path() / "initial.safetensors";
    Incident copy(0, [&] { std::filesystem::copy_file(folder.path() / kLastCheckpoint, initial); });
    REQUIRE(run_with(std::move(copy), config, images, StartMode::fresh) == 0);
    const SafetensorsFile before = SafetensorsFile::read(initial);
    const SafetensorsFile after = SafetensorsFile::read(folder.path() / kLastCheckpoint);
    CHECK((change(before, after, "student.head.last_layer.weight_v") == 0) == (frozen_epochs == 1));
    CHECK(change(before, after, "student.backbone.cls_token") > 0);
    // Nor does AdamW count the steps, or remember their gradients.
    std::vector<std::string> layer;
    for (const std::string& name : after.names())
      if (name.starts_with("student.")) layer.push_back(name.substr(std::string("student.").size()));
    const ConstArray counts = after["optimizer.update_counts"];
    REQUIRE(static_cast<std::size_t>(counts.size()) == layer.size());
    for (std::size_t i = 0; i < layer.size(); ++i) {
      INFO(layer[i]);
      const bool fixed = layer[i].ends_with("weight_g") || (frozen_epochs == 1 && layer[i].ends_with("weight_v"));
      CHECK(counts.as<std::int64_t>()[i] == (fixed ? 0 : 2));
      for (const char* moment : {"optimizer.first_moment.", "optimizer.second_moment."})
        CHECK((change(before, after, moment + layer[i]) == 0) == fixed);
    }
  }
}

/// Pictures of which two cannot be read.
class SomeBroken final : public ImageSource {
 public:
  SomeBroken(std::int64_t count, std::set<std::int64_t> broken) : drawn_(count), broken_(std::move(broken)) {}
  std::int64_t size() const override { return drawn_.size(); }
  void decode(std::int64_t index, Image& image) const override {
    require(!broken_.contains(index), "test", "picture {} is broken", index);
    drawn_.decode(index, image);
  }
  std::int32_t label(std::int64_t index) const override { return drawn_.label(index); }
  std::string name(std::int64_t index) const override { return drawn_.name(index); }

 private:
  DrawnPictures drawn_;
  std::set<std::int64_t> broken_;
};

TEST_CASE("The steps before too many broken pictures are saved, also where those are of no step") {
  TrainConfig config = tiny_config();  // an epoch of 11 pictures has two steps, and a micro-batch left over
  config.accumulation = 2;
  config.max_broken_share = 0;
  const auto order = epoch_order(11, static_cast<std::uint64_t>(config.seed), 0);
  for (const std::size_t step : {1, 2}) {
    const TemporaryFolder folder;
    config.output_dir = folder.path().string();
    const SomeBroken images(11, {order[4 * step], order[4 * step + 1]});
    CHECK(error_of([&] { run(config, images, StartMode::fresh); }).find("too many broken pictures") !=
          std::string::npos);
    CHECK(SafetensorsFile::read(folder.path() / kLastCheckpoint).metadata("step") == std::to_string(step));
    CHECK(log_lines(folder.path()).size() == step);
    CHECK(run(config, DrawnPictures(11), StartMode::resume) == 0);
    CHECK(log_lines(folder.path()).size() == 6);
  }
}

TEST_CASE("Too few pictures for a step are refused, and nothing is left behind") {
  const TemporaryFolder folder;
  TrainConfig config = tiny_config();
  config.batch_size_per_gpu = 2;
  config.accumulation = 3;
  config.output_dir = (folder.path() / "run").string();
  const auto error_with = [&](int pictures) {
    return error_of([&] { run(config, DrawnPictures(pictures), StartMode::fresh); });
  };
  for (const int pictures : {1, 5}) {
    CHECK(error_with(pictures) ==
          fmt::format("[train] an epoch holds no whole step; got {} images, expected at least 2 × 3 × 1 "
                      "(batch_size_per_gpu × accumulation × ranks); try smaller ones, or more images",
                      pictures));
    CHECK_FALSE(std::filesystem::exists(config.output_dir));
  }
  config.epochs = 1;
  CHECK(run(config, DrawnPictures(6), StartMode::fresh) == 0);
}

}  // namespace
}  // namespace dino
