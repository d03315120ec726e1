// Training is stopped from outside, by Ctrl-C, by a closed terminal, by a cluster's warning, by SIGTERM and by the kill
// that no program can catch, and resumed.
#include "engine/files.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/program.h"
#include "tests/support/training_scene.h"
#include "train/stop_signal.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <thread>

using namespace dino;
using namespace dino::test;

namespace {

std::span<const std::byte> bytes_of(const ConstArray& array) {
  return {static_cast<const std::byte*>(array.data()), array.size_bytes()};
}

/// A run of 400 steps, which takes a second or two.
void take_long(TrainConfig& config) {
  config.epochs = 100;
  config.report_every = 10;
}

}  // namespace

TEST_CASE("A run that is stopped by a signal goes on to the same end, bit for bit") {
  const TrainingScene scene(take_long);
  const Outcome whole = run_program(scene.command("whole"));
  INFO(whole.errors);
  REQUIRE(whole.status == 0);
  const SafetensorsFile expected = SafetensorsFile::read(scene.run("whole") / "last.safetensors");
  const auto steps = lines_of(scene.run("whole") / "log.jsonl");
  REQUIRE(steps == 400);

  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGKILL}) {
    const std::string name = "stopped" + std::to_string(signal);
    INFO(name);
    // Twice: once early, once in a resumed run.
    for (const bool again : {false, true}) {
      Program program(scene.command(name, again));
      await_steps(program, scene.run(name), again ? 200 : 30);
      program.send(signal);
      const Outcome outcome = program.wait();
      INFO(outcome.errors);
      REQUIRE(outcome.status == (signal == SIGUSR1 ? kRequeueStatus : 128 + signal));
      REQUIRE(lines_of(scene.run(name) / "log.jsonl") < steps);
      if (signal != SIGKILL) CHECK(outcome.errors.find("go on with --resume") != std::string::npos);
    }
    // What a killed process leaves of a file that it was writing.
    std::filesystem::copy_file(scene.run("whole") / "log.jsonl", scene.run(name) / "last.safetensors.part999999999");
    const Outcome rest = run_program(scene.command(name, true));
    INFO(rest.errors);
    REQUIRE(rest.status == 0);
    CHECK(lines_of(scene.run(name) / "log.jsonl") == steps);
    CHECK(files_besides_film(scene.run(name)) == files_besides_film(scene.run("whole")));
    const SafetensorsFile got = SafetensorsFile::read(scene.run(name) / "last.safetensors");
    REQUIRE(got.names() == expected.names());
    for (const std::string& tensor : got.names()) {
      INFO(tensor);
      CHECK(std::ranges::equal(bytes_of(got[tensor]), bytes_of(expected[tensor])));
    }
  }
}

TEST_CASE("A second signal ends training at once") {
  const TrainingScene scene(take_long);
  Program program(scene.command("run"));
  await_steps(program, scene.run("run"), 3);
  program.send(SIGSTOP);  // both signals are waiting when it wakes up
  program.send(SIGINT);
  program.send(SIGTERM);
  program.send(SIGCONT);
  const Outcome outcome = program.wait();
  CHECK((outcome.status == 128 + SIGINT || outcome.status == 128 + SIGTERM));
  CHECK_FALSE(contains(outcome.errors, "go on with --resume"));
  CHECK(run_program(scene.command("run", true)).status == 0);
}

TEST_CASE("A warning that is followed by the end of the job does not cut the saving short") {
  const TrainingScene scene(take_long);
  Program program(scene.command("run"));
  await_steps(program, scene.run("run"), 3);
  program.send(SIGSTOP);
  for (const int signal : {SIGUSR1, SIGUSR1, SIGHUP, SIGTERM}) program.send(signal);
  program.send(SIGCONT);
  const Outcome outcome = program.wait();
  INFO(outcome.errors);
  // Waiting signals arrive in no certain order.
  const bool first =
      outcome.status == kRequeueStatus || outcome.status == 128 + SIGHUP || outcome.status == 128 + SIGTERM;
  CHECK(first);
  CHECK(contains(outcome.errors, "go on with --resume"));
}

TEST_CASE("A run under nohup goes on when its terminal is closed, and without a reader of its messages") {
  const TrainingScene scene(take_long);
  std::signal(SIGHUP, SIG_IGN);  // the program inherits it
  Program program(scene.command("run"), {.errors = "/dev/full"});
  std::signal(SIGHUP, SIG_DFL);
  await_steps(program, scene.run("run"), 3);
  program.send(SIGHUP);
  CHECK(program.wait().status == 0);
  CHECK(lines_of(scene.run("run") / "log.jsonl") == 400);
}
