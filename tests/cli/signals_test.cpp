// Training is stopped from outside, by Ctrl-C, by SIGTERM and by the kill that no program can catch, and resumed.
#include "data/png.h"
#include "engine/files.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/pictures.h"
#include "tests/support/program.h"
#include "tests/support/tiny_training.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <thread>

using namespace dino;
using namespace dino::test;

namespace {

std::ptrdiff_t lines_of(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file)) return 0;
  const std::string text = read_text_file(file);
  return std::count(text.begin(), text.end(), '\n');
}

/// Waits until a running program has logged so many steps.
void await_steps(Program& program, const std::filesystem::path& run, std::ptrdiff_t steps) {
  while (program.is_running() && lines_of(run / "log.jsonl") < steps)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

std::span<const std::byte> bytes_of(const ConstArray& array) {
  return {static_cast<const std::byte*>(array.data()), array.size_bytes()};
}

/// Pictures and a run of 400 steps on them, which takes a second or two.
class Scene {
 public:
  Scene() {
    const DrawnPictures drawn(8);
    Image picture;
    std::filesystem::create_directories(folder_.path() / "images");
    for (int i = 0; i < 8; ++i) {
      drawn.decode(i, picture);
      write_png(folder_.path() / "images" / (std::to_string(i) + ".png"), picture.rgb, picture.height, picture.width,
                3);
    }
    TrainConfig config = tiny_config();
    config.epochs = 100;
    config.data_path = (folder_.path() / "images").string();
    config_file_ = folder_.write("config.toml", write_config(config));
  }

  std::filesystem::path run(const std::string& name) const { return folder_.path() / name; }
  std::vector<std::string> command(const std::string& name, bool resume = false) const {
    std::vector<std::string> words{"train", config_file_.string(), "--output_dir", run(name).string()};
    if (resume) words.emplace_back("--resume");
    return words;
  }

 private:
  TemporaryFolder folder_;
  std::filesystem::path config_file_;
};

}  // namespace

TEST_CASE("A run that is stopped by a signal goes on to the same end, bit for bit") {
  const Scene scene;
  const Outcome whole = run_program(scene.command("whole"));
  INFO(whole.errors);
  REQUIRE(whole.status == 0);
  const SafetensorsFile expected = SafetensorsFile::read(scene.run("whole") / "last.safetensors");
  const auto steps = lines_of(scene.run("whole") / "log.jsonl");
  REQUIRE(steps == 400);

  for (const int signal : {SIGINT, SIGTERM, SIGKILL}) {
    const std::string name = "stopped" + std::to_string(signal);
    INFO(name);
    // Twice: once early, once in a resumed run.
    for (const bool again : {false, true}) {
      Program program(scene.command(name, again));
      await_steps(program, scene.run(name), again ? 200 : 30);
      program.send(signal);
      const Outcome outcome = program.wait();
      INFO(outcome.errors);
      REQUIRE(outcome.status == 128 + signal);
      REQUIRE(lines_of(scene.run(name) / "log.jsonl") < steps);
      if (signal != SIGKILL) CHECK(outcome.errors.find("go on with --resume") != std::string::npos);
    }
    // What a killed process leaves of a file that it was writing.
    std::filesystem::copy_file(scene.run("whole") / "log.jsonl", scene.run(name) / "last.safetensors.part999999999");
    const Outcome rest = run_program(scene.command(name, true));
    INFO(rest.errors);
    REQUIRE(rest.status == 0);
    CHECK(lines_of(scene.run(name) / "log.jsonl") == steps);
    std::vector<std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(scene.run(name)))
      files.push_back(entry.path().filename().string());
    std::sort(files.begin(), files.end());
    CHECK(files == std::vector<std::string>{"config.toml", "knn.jsonl", "last.safetensors", "log.jsonl"});
    const SafetensorsFile got = SafetensorsFile::read(scene.run(name) / "last.safetensors");
    REQUIRE(got.names() == expected.names());
    for (const std::string& tensor : got.names()) {
      INFO(tensor);
      CHECK(std::ranges::equal(bytes_of(got[tensor]), bytes_of(expected[tensor])));
    }
  }
}

TEST_CASE("A second signal ends training at once") {
  const Scene scene;
  Program program(scene.command("run"));
  await_steps(program, scene.run("run"), 3);
  program.send(SIGSTOP);  // both signals are waiting when it wakes up
  program.send(SIGINT);
  program.send(SIGTERM);
  program.send(SIGCONT);
  const Outcome outcome = program.wait();
  CHECK(outcome.status > 128);
  CHECK(run_program(scene.command("run", true)).status == 0);
}
