// The logs of a run that goes on: what was written of later times goes, the rest stays.
#include "train/run_recorder.h"

#include "engine/files.h"
#include "tests/support/catch.h"
#include "tests/support/temporary_folder.h"

#include <nlohmann/json.hpp>

#include <sstream>

namespace dino {
namespace {

Finding finding(const char* kind, std::int64_t step, std::int64_t epoch) {
  Finding found;
  found.kind = kind;
  found.step = step;
  found.epoch = epoch;
  return found;
}

std::vector<std::string> kinds_in(const std::filesystem::path& log) {
  std::vector<std::string> kinds;
  std::stringstream text(read_text_file(log));
  for (std::string line; std::getline(text, line);) kinds.push_back(nlohmann::json::parse(line).at("kind"));
  return kinds;
}

}  // namespace

TEST_CASE("What an evaluation found is written once, whether the run goes on before or after it") {
  const test::TemporaryFolder folder;
  const auto recorder_at = [&](const TrainingPosition& position) {
    return RunRecorder(folder.path(), TrainConfig(), position, [](const std::string&) {});
  };
  using Kinds = std::vector<std::string>;
  {
    RunRecorder recorder = recorder_at({});
    recorder.found(finding("loss_stuck", 7, 1));
    recorder.found(finding(kFeatureFinding, 7, 1));  // after the last step of epoch 1
    recorder.found(finding("gradient_spike", 8, 2));
    REQUIRE(recorder.sync());
  }
  // From the checkpoint after the evaluation, of epoch 2.
  { recorder_at({.epoch = 2, .batch = 0, .step = 8}); }
  CHECK(kinds_in(folder.path() / "health.jsonl") == Kinds{"loss_stuck", kFeatureFinding});
  // From the one before it, of the end of epoch 1: it is evaluated again.
  { recorder_at({.epoch = 1, .batch = 4, .step = 8}); }
  CHECK(kinds_in(folder.path() / "health.jsonl") == Kinds{"loss_stuck"});
  { recorder_at({.epoch = 1, .batch = 3, .step = 7}); }
  CHECK(kinds_in(folder.path() / "health.jsonl").empty());
}

}  // namespace dino
