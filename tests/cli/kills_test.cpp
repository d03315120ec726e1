// Training is killed at random moments, and its newest checkpoint damaged: the run ends as if nothing had happened.
#include "engine/files.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/program.h"
#include "tests/support/training_scene.h"
#include "train/checkpoint.h"

#include <chrono>
#include <csignal>
#include <random>
#include <thread>

using namespace dino;
using namespace dino::test;

namespace {

/// Saves after every step, so that most of the time goes into that.
void save_always(TrainConfig& config) {
  config.epochs = 20;
  config.save_minutes = 1e-9;
  config.saveckp_freq = 7;
  config.knn_every = 2;
  config.knn_k = {1};
}

}  // namespace

TEST_CASE("A run that is killed at 50 random moments ends in the same weights and logs as one that is not") {
  const TrainingScene scene(save_always);
  const Outcome whole = run_program(scene.command("whole"));
  INFO(whole.errors);
  REQUIRE(whole.status == 0);
  REQUIRE(log_lines(scene.run("whole") / "log.jsonl").size() == 80);

  std::mt19937 random(50);
  std::uniform_int_distribution<int> delay_us(0, 40000);
  int runs = 0;
  for (int kills = 0; kills < 50;) {
    const std::string name = "killed" + std::to_string(runs);
    Program program(scene.next_command(name));
    const std::filesystem::path log = scene.run(name) / "log.jsonl";
    // Not before it has done something in this life.
    const auto lines = lines_of(log);
    const int delay = delay_us(random);
    while (program.is_running() && lines_of(log) == lines) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::chrono::microseconds(delay));
    program.send(SIGKILL);
    const Outcome outcome = program.wait();
    INFO("after " << kills << " kills: " << outcome.errors);
    REQUIRE((outcome.status == 128 + SIGKILL || outcome.status == 0));
    kills += outcome.status == 0 ? 0 : 1;
    if (outcome.status == 0) ++runs;  // it was faster; the next kills are for another run
  }
  for (int run = 0; run <= runs; ++run) {
    const std::string name = "killed" + std::to_string(run);
    const Outcome rest = run_program(scene.next_command(name));
    INFO(rest.errors);
    REQUIRE(rest.status == 0);
    check_same_run(scene.run(name), scene.run("whole"));
    CHECK(files_in(scene.run(name)) == files_in(scene.run("whole")));
  }
}

TEST_CASE("A run whose newest checkpoint is damaged goes on from the one before, and says so") {
  const TrainingScene scene([](TrainConfig& config) {
    save_always(config);
    config.epochs = 2;
  });
  const Outcome whole = run_program(scene.command("whole"));
  INFO(whole.errors);
  REQUIRE(whole.status == 0);
  const std::string sound = read_text_file(scene.run("whole") / kLastCheckpoint);
  const auto flipped = [&](std::size_t at) {
    std::string bytes = sound;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
    return bytes;
  };
  // A whole file that says what no run does, without a checksum, as other programs write it.
  const auto saying = [&](const std::string& key, const std::string& text) {
    const SafetensorsFile file = SafetensorsFile::read(scene.run("whole") / kLastCheckpoint);
    std::vector<NamedArray> arrays;
    for (const std::string& tensor : file.names()) arrays.push_back({tensor, file[tensor]});
    std::map<std::string, std::string> metadata = file.metadata();
    metadata.erase("checksum");
    REQUIRE(metadata.contains(key));
    metadata[key] = text;
    write_safetensors(scene.folder() / "changed", arrays, metadata);
    return read_text_file(scene.folder() / "changed");
  };
  const std::vector<std::string> damages = {"",
                                            sound.substr(0, 7),
                                            sound.substr(0, sound.size() - 1),
                                            std::string(sound.size(), '\0'),
                                            flipped(3),
                                            flipped(sound.find("\"step\":\"") + 8),
                                            flipped(sound.find("\"F32\"") + 1),
                                            flipped(sound.size() / 2),
                                            flipped(sound.size() - 1),
                                            saying("epoch", "9223372036854775807"),
                                            saying("step", "1"),
                                            saying("ranks", "4611686018427387904"),
                                            saying("best_score", "nan"),
                                            saying("rollbacks", "-2147483648"),
                                            saying("health", R"({"window":[[-9223372036854775808]]})"),
                                            saying("config", "accumulation = 0"),
                                            "whole"};
  for (std::size_t i = 0; i < damages.size(); ++i) {
    INFO("damage " << i);
    const std::string name = "damaged" + std::to_string(i);
    std::filesystem::copy(scene.run("whole"), scene.run(name));
    const std::filesystem::path last = scene.run(name) / kLastCheckpoint;
    const std::filesystem::path previous = scene.run(name) / kPreviousCheckpoint;
    const bool is_missing = damages[i] == "whole";
    std::ofstream(last, std::ios::binary) << damages[i];
    if (is_missing) std::filesystem::remove(last);
    const Outcome resumed = run_program(scene.command(name, true));
    INFO(resumed.errors);
    REQUIRE(resumed.status == 0);
    CHECK(contains(resumed.errors, last.string() + " is damaged") != is_missing);
    CHECK(contains(resumed.errors, "resumed from " + previous.string()));
    check_same_run(scene.run(name), scene.run("whole"));

    // Where both are damaged nothing is left to go on from, and nothing is changed.
    std::ofstream(last, std::ios::binary) << damages[i];
    std::ofstream(previous, std::ios::binary) << damages[i];
    const Outcome refused = run_program(scene.command(name, true));
    INFO(refused.errors);
    CHECK(refused.status == 1);
    CHECK(contains(refused.errors, "dino_cuda: [checkpoint] " + last.string() + " is damaged"));
    CHECK(read_text_file(previous) == damages[i]);
  }
}
