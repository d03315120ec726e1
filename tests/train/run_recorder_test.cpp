// The logs of a run that goes on: what was written of later times goes, the rest stays.
#include "train/run_recorder.h"

#include "engine/files.h"
#include "engine/progress.h"
#include "tests/support/catch.h"
#include "tests/support/temporary_folder.h"

#include <nlohmann/json.hpp>

#include <sys/resource.h>

#include <csignal>
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

StepReport step_report(std::int64_t step, std::int64_t epoch) {
  StepReport report;
  report.position = {.epoch = epoch, .batch = step % 4, .step = step};
  return report;
}

std::vector<std::int64_t> steps_in(const std::filesystem::path& log) {
  std::vector<std::int64_t> steps;
  std::stringstream text(read_text_file(log));
  for (std::string line; std::getline(text, line);) steps.push_back(nlohmann::json::parse(line).at("step"));
  return steps;
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

TEST_CASE("A run that goes back has every step once in its logs") {
  const test::TemporaryFolder folder;
  using Steps = std::vector<std::int64_t>;
  RunRecorder recorder(folder.path(), TrainConfig(), {}, [](const std::string&) {});
  const std::filesystem::path elsewhere = folder.path() / "another/machine";
  RankRecorder of_rank(elsewhere, 1, 0);
  for (RunObserver* observer : {static_cast<RunObserver*>(&recorder), static_cast<RunObserver*>(&of_rank)}) {
    for (std::int64_t step = 0; step < 7; ++step) observer->step_done(step_report(step, step / 4));
    observer->rolled_back({.epoch = 1, .batch = 0, .step = 4});
    observer->step_done(step_report(4, 1));
  }
  REQUIRE(recorder.sync());
  CHECK(steps_in(folder.path() / "log.jsonl") == Steps{0, 1, 2, 3, 4});
  CHECK(steps_in(elsewhere / "log.rank1.jsonl") == Steps{0, 1, 2, 3, 4});
}

/// While it lives, no file of this process grows beyond a byte.
class FullDisk {
 public:
  FullDisk() {
    before_ = std::signal(SIGXFSZ, SIG_IGN);
    REQUIRE(getrlimit(RLIMIT_FSIZE, &limit_) == 0);
    const rlimit low{1, limit_.rlim_max};
    REQUIRE(setrlimit(RLIMIT_FSIZE, &low) == 0);
  }
  ~FullDisk() {
    setrlimit(RLIMIT_FSIZE, &limit_);
    std::signal(SIGXFSZ, before_);
  }

 private:
  void (*before_)(int);
  rlimit limit_{};
};

TEST_CASE("A run goes back on a full disk, and its log goes on when there is room") {
  const test::TemporaryFolder folder;
  std::vector<std::string> reports;
  RunRecorder recorder(folder.path(), TrainConfig(), {}, [&](const std::string& line) { reports.push_back(line); });
  for (std::int64_t step = 0; step < 7; ++step) recorder.step_done(step_report(step, step / 4));
  REQUIRE(recorder.sync());
  {
    const FullDisk full;
    recorder.rolled_back({.epoch = 1, .batch = 0, .step = 4});
    REQUIRE(reports.size() == 1);
    CHECK(reports[0].find("log.jsonl keeps the lines of what is done again: [file] cannot write ") !=
          std::string::npos);
    recorder.step_done(step_report(4, 1));
    CHECK_FALSE(recorder.sync());
    // Now a line waits in memory that would come too late.
    recorder.rolled_back({.epoch = 1, .batch = 0, .step = 4});
  }
  recorder.step_done(step_report(4, 1));
  REQUIRE(recorder.sync());
  CHECK(steps_in(folder.path() / "log.jsonl") == std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6, 4, 4});
  recorder.rolled_back({.epoch = 1, .batch = 0, .step = 4});
  CHECK(steps_in(folder.path() / "log.jsonl") == std::vector<std::int64_t>{0, 1, 2, 3});
}

TEST_CASE("What a damaged disk left of a log is dropped in little memory, and the rest stays") {
  const test::TemporaryFolder folder;
  const std::string one = "{\"step\":1}\n", two = "{\"step\":2}\n";
  const auto log = folder.write("log.jsonl", one);
  std::filesystem::resize_file(log, std::uintmax_t{2} << 30);  // zeros, which take no room
  std::ofstream(log, std::ios::app) << "\n" << two << "{\"step\":3}\n{\"st";
  const std::size_t before = peak_resident_bytes();
  RunLog(log, lines_before("step", 3), [](const std::string&) {});
  CHECK(read_text_file(log) == one + two);
  CHECK(peak_resident_bytes() - before < (std::size_t{64} << 20));
  // A whole line that only lacks its end gets it.
  folder.write("log.jsonl", one + "{\"step\":2}");
  RunLog(log, lines_before("step", 3), [](const std::string&) {});
  CHECK(read_text_file(log) == one + two);
}

}  // namespace dino
