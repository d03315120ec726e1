// A folder belongs to the run that trains into it: a second one is refused at once, by name, and who only looks is not.
#include "engine/files.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/program.h"
#include "tests/support/training_scene.h"

#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <thread>

using namespace dino;
using namespace dino::test;

namespace {

/// A run of 200 steps, with pictures to draw.
void take_a_while(TrainConfig& config) { config.epochs = 50; }

}  // namespace

TEST_CASE("A second run into a folder is refused with the first one's process, and readers are not") {
  const TrainingScene scene(take_a_while);
  const std::filesystem::path run = scene.run("run");
  const std::string folder = run.string(), weights = (run / "last.safetensors").string();
  Program first(scene.command("run"));
  await_steps(first, run, 20);
  first.send(SIGSTOP);  // so that it is at work for as long as this takes
  REQUIRE(first.is_running());
  const std::string expected = fmt::format("dino_cuda: [train] process {} (", first.process());
  for (const bool resume : {false, true}) {
    INFO((resume ? "resumed" : "fresh"));
    const Outcome second = run_program(scene.command("run", resume));
    CHECK(second.status == 1);
    CHECK(is_one_line_error(second.errors));
    CHECK(second.errors.starts_with(expected));
    CHECK(contains(second.errors, ") trains into " + folder + " already; try another --output_dir, or --resume"));
  }
  // By another name of the folder, and with its pictures gone, which it does not come to look at.
  std::filesystem::create_directory_symlink(run, scene.folder() / "link");
  std::vector<std::string> nothing = scene.command("link", true);
  nothing.insert(nothing.end(), {"--data_path", (scene.folder() / "missing").string()});
  CHECK(contains(run_program(nothing).errors, expected));

  const std::string images = (scene.folder() / "images").string();
  const std::string picture = images + "/even/0.png", drawn = (scene.folder() / "drawn").string();
  const std::vector<std::vector<std::string>> readers{
      {"report", folder, "--out", (scene.folder() / "report.html").string()},
      {"report", folder},
      {"compare", folder},
      {"eval", "knn", "--weights", weights, "--train", images, "--test", images, "--k", "1"},
      {"attention", picture, "--weights", weights, "--image-size", "16", "--output", drawn},
      {"features", images, "--weights", weights, "--out", (scene.folder() / "features.npy").string()}};
  for (const std::vector<std::string>& words : readers) {
    INFO(words.front());
    const Outcome outcome = run_program(words);
    INFO(outcome.errors);
    CHECK(outcome.status == 0);
  }

  first.send(SIGCONT);
  const Outcome outcome = first.wait();
  INFO(outcome.errors);
  CHECK(outcome.status == 0);
  CHECK_FALSE(contains(outcome.errors, "warning"));
  CHECK(lines_of(run / "log.jsonl") == 200);
  CHECK(files_besides_film(run) == std::vector<std::string>{"config.toml", "environment.jsonl", "film", "health.jsonl",
                                                            "knn.jsonl", "last.safetensors", "log.jsonl",
                                                            "previous.safetensors", "report.html"});
  // Nobody is at work there now.
  CHECK(contains(run_program(scene.command("run")).errors, "holds a run already"));
}

TEST_CASE("A run that was killed keeps nobody out of its folder") {
  const TrainingScene scene(take_a_while);
  Program first(scene.command("run"));
  await_steps(first, scene.run("run"), 3);
  first.send(SIGKILL);
  REQUIRE(first.wait().status == 128 + SIGKILL);
  const Outcome rest = run_program(scene.command("run", true));
  INFO(rest.errors);
  CHECK(rest.status == 0);
  CHECK(lines_of(scene.run("run") / "log.jsonl") == 200);
}

TEST_CASE("Of several runs that begin at once into one folder, one trains") {
  const TrainingScene scene(take_a_while);
  for (int round = 0; round < 5; ++round) {
    const std::string name = fmt::format("run{}", round);
    Program first(scene.command(name)), second(scene.command(name)), third(scene.command(name));
    int trained = 0;
    for (Program* program : {&first, &second, &third}) {
      const Outcome outcome = program->wait();
      INFO(outcome.errors);
      if (outcome.status == 0) {
        ++trained;
        continue;
      }
      CHECK(outcome.status == 1);
      // Or it came when all was over.
      CHECK((contains(outcome.errors, " trains into ") || contains(outcome.errors, "holds a run already")));
    }
    CHECK(trained == 1);
    CHECK(log_lines(scene.run(name) / "log.jsonl").size() == 200);
    SafetensorsFile::read(scene.run(name) / "last.safetensors");
  }
}

TEST_CASE("A run of several ranks holds its folder, and is kept out of one that is held") {
  const TrainingScene scene(take_a_while);
  const auto of_two = [&](bool resume) {
    std::vector<std::string> words = scene.command("run", resume);
    words.insert(words.end(), {"--batch_size_per_gpu", "1", "--ranks", "2"});
    return words;
  };
  Program first(of_two(false));
  await_steps(first, scene.run("run"), 3);
  REQUIRE(first.is_running());
  const Outcome alone = run_program(scene.command("run", true)), again = run_program(of_two(true));
  REQUIRE(first.is_running());
  CHECK(alone.status == 1);
  CHECK(is_one_line_error(alone.errors));
  CHECK(contains(alone.errors, ") trains into " + scene.run("run").string() + " already"));
  CHECK(again.status == 1);
  CHECK(contains(again.errors, ") trains into " + scene.run("run").string() + " already"));
  first.send(SIGTERM);
  CHECK(first.wait().status == 128 + SIGTERM);
  // Its ranks have ended before it has.
  const Outcome rest = run_program(of_two(true));
  INFO(rest.errors);
  CHECK(rest.status == 0);
}
