// Training on a disk that fails (faulty_disk.cpp): calls that return errors, kills within them, and power cuts.
#include "engine/files.h"
#include "models/safetensors.h"
#include "tests/faults/disk_record.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/program.h"
#include "tests/support/training_scene.h"
#include "train/checkpoint.h"
#include "train/run_log.h"
#include "train/stop_signal.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <map>
#include <random>
#include <set>

using namespace dino;
using namespace dino::test;

namespace {

/// Saves after every step, so that there is much that can fail.
void save_always(TrainConfig& config) {
  config.epochs = 3;
  config.save_minutes = 1e-9;
  config.knn_every = 1;
  config.knn_k = {1};
}

class FaultyScene {
 public:
  FaultyScene()
      : scene_([](TrainConfig& config) {
          save_always(config);
          config.saveckp_freq = 2;
          config.rollbacks = 1;     // keeps each epoch's checkpoint under another name, by a link or as a copy
          config.report_every = 0;  // its film has a folder of its own; a report's failure costs nothing
        }) {
    const Outcome whole = run_on_disk("whole", {{"DINO_DISK_RECORD", record().string()}});
    INFO(whole.errors);
    REQUIRE(whole.status == 0);
    calls_ = read_disk_record(record(), run("whole"));
  }

  std::filesystem::path run(const std::string& name) const { return scene_.run(name); }
  std::filesystem::path record() const { return scene_.folder() / "record"; }
  const std::vector<DiskCall>& calls() const { return calls_; }
  /// Of those that the kill and the signal count.
  int counted_calls() const {
    return static_cast<int>(std::count_if(calls_.begin(), calls_.end(),
                                          [](const DiskCall& call) { return call.kind != DiskCall::Kind::close; }));
  }

  /// Begins a run, or goes on with it, on a disk with these settings.
  Outcome run_on_disk(const std::string& name, const std::vector<std::pair<std::string, std::string>>& settings) const {
    ProgramLimits limits;
    limits.environment = {"LD_PRELOAD=" DINO_FAULTY_DISK, "DINO_DISK_FOLDER=" + run(name).string()};
    for (const auto& [key, value] : settings) limits.environment.push_back(key + "=" + value);
    return run_program(scene_.next_command(name), limits);
  }
  Outcome go_on(const std::string& name) const { return run_program(scene_.next_command(name)); }

 private:
  TrainingScene scene_;
  std::vector<DiskCall> calls_;
};

/// Is this the part of a file that was being written?
bool is_part(const std::string& name) { return name.find(".part") != std::string::npos; }

std::vector<std::string> parts_in(const std::filesystem::path& folder) {
  std::vector<std::string> names = files_in(folder);
  std::erase_if(names, [](const std::string& name) { return !is_part(name); });
  return names;
}

/// Throws Error where a checkpoint under its final name is not whole.
void check_all_checkpoints(const std::filesystem::path& folder) {
  for (const std::string& name : files_in(folder)) {
    if (name.ends_with(".safetensors")) SafetensorsFile::read(folder / name);
  }
}

}  // namespace

TEST_CASE("A run on a disk that fails again and again ends in the same weights and logs") {
  const FaultyScene scene;
  int warned = 0;
  int waited = 0;
  int failed = 0;
  for (int course = 0; course < 6; ++course) {
    const std::string name = "faults" + std::to_string(course);
    const std::filesystem::path count = scene.run(name + "_count");
    Outcome outcome;
    // A start on a failing disk, and an end on a full one, are errors; then the user tries again.
    for (int life = 0; life == 0 || outcome.status != 0; ++life) {
      INFO(name << ", life " << life << ": " << outcome.errors);
      REQUIRE(life < 40);
      outcome = scene.run_on_disk(
          name, {{"DINO_DISK_FAULTS", std::to_string(100 * course + life)}, {"DINO_DISK_COUNT", count.string()}});
      INFO(outcome.errors);
      REQUIRE((outcome.status == 0 || outcome.status == 1));
      if (outcome.status == 1) CHECK(contains(outcome.errors, "dino_cuda: ["));
      CHECK(parts_in(scene.run(name)).empty());
      check_all_checkpoints(scene.run(name));
      warned += contains(outcome.errors, " is not saved: [file] ") ? 1 : 0;
      waited += contains(outcome.errors, "lines wait in memory") ? 1 : 0;
      failed += outcome.status;
    }
    // Copies that the disk did not take are left out, with a warning; so the best one is not compared.
    check_same_run(scene.run(name), scene.run("whole"), Best::left_out);
    CHECK(read_text_file(count).size() > 5);
  }
  // That it was hard enough.
  CHECK(warned >= 6);
  CHECK(waited >= 1);
  CHECK(failed >= 1);
}

TEST_CASE("A disk without locks is a warning, not the end of a run") {
  const FaultyScene scene;
  const Outcome outcome = scene.run_on_disk("run", {{"DINO_DISK_WITHOUT_LOCKS", "1"}});
  INFO(outcome.errors);
  CHECK(outcome.status == 0);
  CHECK(contains(outcome.errors, fmt::format("warning: {} cannot be locked: No locks available; see to it that no "
                                             "other run is started into it\n",
                                             scene.run("run").string())));
  check_same_run(scene.run("run"), scene.run("whole"));
}

TEST_CASE("A disk that is full for a while delays saving, and loses nothing") {
  const FaultyScene scene;
  const int calls = scene.counted_calls();
  const Outcome outcome =
      scene.run_on_disk("run", {{"DINO_DISK_FULL", fmt::format("{}-{}", calls / 3, calls / 3 + 12)}});
  INFO(outcome.errors);
  CHECK(outcome.status == 0);
  CHECK(contains(outcome.errors, "warning: last.safetensors of step "));
  CHECK(contains(outcome.errors, "No space left on device; the one before stays, and saving is tried again"));
  CHECK(contains(outcome.errors, "is saved\n"));
  CHECK(contains(outcome.errors, "lines wait in memory, training goes on: cannot write "));
  CHECK(contains(outcome.errors, "log.jsonl is complete again"));
  check_same_run(scene.run("run"), scene.run("whole"), Best::left_out);
  CHECK(parts_in(scene.run("run")).empty());
}

TEST_CASE("A run that ends on a full disk says what is not saved, and goes on from what was") {
  const FaultyScene scene;
  const int calls = scene.counted_calls();
  // Full from then on: to the end of the run, or to a signal.
  for (const bool signalled : {false, true}) {
    const std::string name = signalled ? "signalled" : "ended";
    std::vector<std::pair<std::string, std::string>> settings = {
        {"DINO_DISK_FULL", fmt::format("{}-999999999", calls / 2)}};
    if (signalled) settings.emplace_back("DINO_DISK_SIGNAL", std::to_string(calls / 2 + 20));
    const Outcome outcome = scene.run_on_disk(name, settings);
    INFO(outcome.errors);
    CHECK(outcome.status == 1);
    const std::size_t error = outcome.errors.rfind("dino_cuda: [train] the run ends without its state of step ");
    REQUIRE(error != std::string::npos);
    CHECK(is_one_line_error(outcome.errors.substr(error)));
    CHECK(contains(outcome.errors, "of step 12 (epoch 3) in") != signalled);
    for (int left = 1; left <= 12; ++left)
      CHECK(contains(outcome.errors, fmt::format("next try in 5 s, {} left\n", left)));
    CHECK(parts_in(scene.run(name)).empty());
    check_all_checkpoints(scene.run(name));
    const auto steps = log_lines(scene.run(name) / "log.jsonl").size();
    CHECK((steps > 0 && steps < 12));
    CHECK(scene.go_on(name).status == 0);
    check_same_run(scene.run(name), scene.run("whole"));
  }
}

TEST_CASE("A run that is killed within the calls that change its folder ends in the same weights and logs") {
  const FaultyScene scene;
  std::mt19937 random(7);
  std::uniform_int_distribution<int> when(1, scene.counted_calls());
  // Few of the calls are other than writes, and those are where it matters.
  std::vector<int> moments;
  int number = 0;
  for (const DiskCall& call : scene.calls()) {
    number += call.kind == DiskCall::Kind::close ? 0 : 1;
    const bool is_rare = call.kind == DiskCall::Kind::rename || call.kind == DiskCall::Kind::link ||
                         call.kind == DiskCall::Kind::sync || call.kind == DiskCall::Kind::sync_folder;
    if (is_rare && random() % 8 == 0) moments.push_back(number);
  }
  while (moments.size() < 30) moments.push_back(when(random));
  std::shuffle(moments.begin(), moments.end(), random);
  moments.resize(30);

  int kills = 0;
  for (std::size_t i = 0; i < moments.size(); ++i) {
    // Three in each run; in the later lives some come after the end.
    const std::string name = "killed" + std::to_string(i / 3);
    const Outcome outcome = scene.run_on_disk(name, {{"DINO_DISK_KILL", std::to_string(moments[i])}});
    INFO(name << " in call " << moments[i] << ": " << outcome.errors);
    REQUIRE((outcome.status == 128 + SIGKILL || outcome.status == 0));
    kills += outcome.status == 0 ? 0 : 1;
    check_all_checkpoints(scene.run(name));
    if (i % 3 < 2) continue;
    const Outcome rest = scene.go_on(name);
    INFO(rest.errors);
    REQUIRE(rest.status == 0);
    check_same_run(scene.run(name), scene.run("whole"));
    CHECK(files_in(scene.run(name)) == files_in(scene.run("whole")));
  }
  CHECK(kills >= 15);
}

TEST_CASE("A cluster's warning is right at any moment: at the start, while saving, in an evaluation") {
  const FaultyScene scene;
  std::mt19937 random(3);
  for (int i = 0; i < 10; ++i) {
    const int call = i < 3 ? 1 + i : 1 + static_cast<int>(random() % static_cast<unsigned>(scene.counted_calls()));
    const std::string name = "warned" + std::to_string(i);
    const Outcome outcome = scene.run_on_disk(name, {{"DINO_DISK_SIGNAL", std::to_string(call)}});
    INFO("in call " << call << ": " << outcome.errors);
    // In the last save there is nothing left to stop.
    CHECK((outcome.status == kRequeueStatus || outcome.status == 0));
    check_all_checkpoints(scene.run(name));
    const Outcome rest = scene.go_on(name);
    INFO(rest.errors);
    REQUIRE(rest.status == 0);
    check_same_run(scene.run(name), scene.run("whole"));
  }
}

TEST_CASE("A run goes on after a power cut at any write, with every step that it had saved") {
  const FaultyScene scene;
  const std::filesystem::path folder = scene.run("after");
  std::mt19937 random(11);
  DiskModel disk;
  std::map<std::int64_t, std::set<std::string>> sound;  // contents of `last`, by step, as it was put into place
  std::int64_t saved_step = -1;                         // of the newest `last` that is certainly on the disk
  std::set<std::map<std::string, std::string>> seen;
  std::vector<std::map<std::string, std::string>> states;
  const auto& calls = scene.calls();
  std::int64_t step_in_place = -1;
  int writes = 0;
  int saves = 0;
  for (const DiskCall& call : calls) {
    disk.apply(call);
    if (call.kind == DiskCall::Kind::rename && call.second == kLastCheckpoint) {
      const auto now = disk.after(PowerLoss::nothing_lost, random);
      std::filesystem::create_directories(folder);
      std::ofstream(folder / kLastCheckpoint, std::ios::binary) << now.at(kLastCheckpoint);
      const SafetensorsFile file = SafetensorsFile::read(folder / kLastCheckpoint);
      std::filesystem::remove_all(folder);
      ++saves;
      step_in_place = std::stoll(file.metadata("step"));
      sound[step_in_place].insert(now.at(kLastCheckpoint));
    }
    if (call.kind == DiskCall::Kind::sync_folder) saved_step = step_in_place;
    // Of the many writes in a row, some.
    if (call.kind == DiskCall::Kind::close) continue;
    if (call.kind == DiskCall::Kind::write && ++writes % 40 != 0) continue;
    for (const PowerLoss loss :
         {PowerLoss::nothing_lost, PowerLoss::late_data, PowerLoss::late_names, PowerLoss::torn}) {
      const auto state = disk.after(loss, random);
      if (!seen.insert(state).second) continue;
      std::filesystem::remove_all(folder);
      std::filesystem::create_directories(folder);
      for (const auto& [name, content] : state) std::ofstream(folder / name, std::ios::binary) << content;
      INFO("loss " << static_cast<int>(loss) << " in state " << seen.size());
      check_all_checkpoints(folder);
      const std::vector<std::filesystem::path> found = find_checkpoints(folder);
      REQUIRE((saved_step < 0 || !found.empty()));
      if (found.empty()) continue;
      const SafetensorsFile newest = SafetensorsFile::read(found.front());
      const std::int64_t step = std::stoll(newest.metadata("step"));
      CHECK(step >= saved_step);
      CHECK(sound.at(step).contains(read_text_file(found.front())));
      // The lines of all steps before it are there.
      const RunLog log(folder / "log.jsonl", lines_before("step", step), [](const std::string&) {});
      CHECK(lines_of(folder / "log.jsonl") == step);
      states.push_back(state);
    }
  }
  CHECK(seen.size() > 100);
  CHECK(saved_step == 12);
  // The first, three within each epoch, one before and one after each evaluation: none twice.
  CHECK(saves == 1 + 3 * (3 + 2));

  std::shuffle(states.begin(), states.end(), random);
  states.resize(12);
  for (std::size_t i = 0; i < states.size(); ++i) {
    const std::string name = "resumed" + std::to_string(i);
    std::filesystem::create_directories(scene.run(name));
    for (const auto& [file, content] : states[i]) std::ofstream(scene.run(name) / file, std::ios::binary) << content;
    const Outcome rest = scene.go_on(name);
    INFO(rest.errors);
    REQUIRE(rest.status == 0);
    check_same_run(scene.run(name), scene.run("whole"));
  }
}
