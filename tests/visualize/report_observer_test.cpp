// The report and the film of a run in progress.
#include "visualize/report/report_observer.h"
#include "data/decode.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_training.h"
#include "train/trainer.h"
#include "visualize/report/film_files.h"
#include "visualize/report/tensorboard_recorder.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <map>
#include <set>

using namespace dino;
using namespace dino::test;

namespace {

namespace fs = std::filesystem;

std::string content(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::size_t lines_of(const fs::path& path) {
  const std::string text = content(path);
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

struct Run {
  TemporaryFolder folder;
  std::unique_ptr<Context> context = make_cpu_context();
  DrawnPictures images{6};
  TrainConfig config = tiny_config();

  Run() { config.output_dir = (folder.path() / "run").string(); }
  fs::path path(const std::string& name) const { return fs::path(config.output_dir) / name; }
  RunObservers observers() {
    return {std::make_shared<ReportObserver>(*context, config, images, std::vector<std::string>{"even", "odd"},
                                             std::map<std::string, std::string>{{"processor", "a \xFF <one>"}}),
            std::make_shared<TensorBoardRecorder>(config)};
  }
  void train(StartMode start, const RunObservers& with, int expected_status = 0) {
    SingleProcess communicator;
    REQUIRE(dino::train(*context, communicator, config, images, start, {}, with) == expected_status);
  }
};

/// The weights of a checkpoint, without what it says of the time.
std::string weights_of(const Run& run) { return content(run.path("last.safetensors")); }

/// Sends this process a signal when an epoch ends; -1: before the first.
class SignalAtEnd final : public RunObserver {
 public:
  explicit SignalAtEnd(std::int64_t epoch) : epoch_(epoch) {}
  void started(const PauseReport& pause) override { epoch_done(pause); }
  void epoch_done(const PauseReport& pause) override {
    if (pause.epoch == epoch_) std::raise(SIGINT);
  }

 private:
  std::int64_t epoch_;
};

/// Every picture and table of the film.
std::map<std::string, std::string> film_of(const Run& run) {
  std::map<std::string, std::string> files;
  for (const auto& file : fs::directory_iterator(run.path("film"))) {
    if (file.path().filename() != "epochs.jsonl") files[file.path().filename().string()] = content(file.path());
  }
  return files;
}

}  // namespace

TEST_CASE("A run that is stopped while its film is drawn draws it when it is resumed", "[report]") {
  Run whole;
  whole.train(StartMode::fresh, whole.observers());
  const std::map<std::string, std::string> film = film_of(whole);
  for (const int epoch : {-1, 0, 1, 2}) {
    INFO("after epoch " << epoch);
    Run run;
    RunObservers observers = run.observers();
    observers.insert(observers.begin(), std::make_shared<SignalAtEnd>(epoch));
    run.train(StartMode::fresh, observers, 128 + SIGINT);
    CHECK(lines_of(run.path("log.jsonl")) == static_cast<std::size_t>(3 * (epoch + 1)));  // no step more
    run.train(StartMode::resume, run.observers());
    CHECK((film_of(run) == film));
    CHECK(lines_of(run.path("film/epochs.jsonl")) == 4);
    CHECK(content(run.path("report.html")).find("Attention of the pictures, epoch 3") != std::string::npos);
  }
}

TEST_CASE("A run has its report, its film and its events", "[report]") {
  Run run;
  run.train(StartMode::fresh, run.observers());
  const std::string html = content(run.path("report.html"));
  CHECK(html.starts_with("<!doctype html>"));
  CHECK(html.ends_with("</html>\n"));
  // Untrained and after each of three epochs: 4 pictures of 16 patches a side, 6 pixels each.
  for (int epochs = 0; epochs <= 3; ++epochs) {
    Image attention, components, row;
    decode_image_file(film_file(run.path("film"), "attention", epochs, "jpg"), {}, attention);
    CHECK((attention.width == 96 && attention.height == 4 * 96));
    decode_image_file(film_file(run.path("film"), "components", epochs, "png"), {}, components);
    CHECK((components.width == 96 && components.height == 4 * 96));
    const auto rows = film_neighbours(film_file(run.path("film"), "neighbours", epochs, "json"));
    REQUIRE(rows.size() == 4);
    for (std::size_t q = 0; q < rows.size(); ++q) {
      REQUIRE(rows[q].size() == 6);  // the query and the five others
      std::set<std::string> names;
      for (std::size_t i = 0; i < rows[q].size(); ++i) {
        names.insert(rows[q][i].name);
        CHECK(rows[q][i].similarity <= 1 + 1e-5);
        if (i > 0) CHECK(rows[q][i].similarity <= rows[q][i - 1].similarity + 1e-5);
        CHECK((rows[q][i].class_name == "even" || rows[q][i].class_name == "odd"));
      }
      CHECK(names.size() == 6);
      decode_image_file(film_file(run.path("film"), "neighbours", epochs, fmt::format("{}.jpg", q)), {}, row);
      CHECK((row.width == 6 * 96 && row.height == 96));
    }
  }
  CHECK(film_pictures(run.path("film")).size() == 4);
  CHECK(lines_of(run.path("film/epochs.jsonl")) == 4);
  CHECK(lines_of(run.path("environment.jsonl")) == 1);
  CHECK(html.find("a \\xff &lt;one&gt;") != std::string::npos);
  CHECK(html.find("Attention of the pictures, epoch 3") != std::string::npos);
  CHECK(std::distance(fs::directory_iterator(run.path("tensorboard")), {}) == 1);
}

TEST_CASE("A report changes nothing of a run", "[report]") {
  Run plain, reported;
  reported.config.output_dir = plain.config.output_dir;  // checkpoints name it
  plain.train(StartMode::fresh, {});
  const std::string log_keys = content(plain.path("config.toml")), weights = weights_of(plain);
  fs::remove_all(plain.config.output_dir);
  reported.train(StartMode::fresh, reported.observers());
  CHECK(content(plain.path("config.toml")) == log_keys);
  CHECK((weights_of(plain) == weights));
}

TEST_CASE("A resumed run goes on with its film, and has a second start", "[report]") {
  Run run;
  run.config.epochs = 2;
  run.config.warmup_epochs = 1;
  run.train(StartMode::fresh, run.observers());
  // A frame of an epoch that the checkpoint does not know of.
  std::ofstream(film_file(run.path("film"), "attention", 9, "jpg")) << "x";
  run.config.epochs = 3;
  run.train(StartMode::resume, run.observers());
  CHECK(film_frames(run.path("film"), "attention", "jpg", 0).size() == 4);
  CHECK(lines_of(run.path("film/epochs.jsonl")) == 4);
  CHECK(lines_of(run.path("environment.jsonl")) == 2);
  CHECK(std::distance(fs::directory_iterator(run.path("tensorboard")), {}) == 2);
}

TEST_CASE("A run that goes back lets TensorBoard forget what it does again", "[report]") {
  Run run;
  TensorBoardRecorder recorder(run.config);
  recorder.rolled_back({.epoch = 0, .batch = 0, .step = 0});
  recorder.rolled_back({.epoch = 1, .batch = 0, .step = 4});
  int files = 0;
  for (const auto& entry : fs::directory_iterator(run.path("tensorboard"))) {
    ++files;
    // A SessionLog (field 7 of an Event) with the status START.
    CHECK(content(entry.path()).find("\x3A\x02\x08\x01") != std::string::npos);
  }
  CHECK(files == 2);
}

TEST_CASE("Reports may be rarer than epochs, and the last epoch has one", "[report]") {
  Run run;
  run.config.report_every = 2;
  run.train(StartMode::fresh, run.observers());
  std::vector<std::int64_t> epochs;
  for (const FilmFrame& frame : film_frames(run.path("film"), "attention", "jpg", 0)) epochs.push_back(frame.epochs);
  CHECK(epochs == std::vector<std::int64_t>{0, 2, 3});
}

TEST_CASE("The film is drawn in bf16 as well", "[report]") {
  Run run;
  run.config.precision = "bf16";
  run.config.epochs = 1;
  run.train(StartMode::fresh, run.observers());
  CHECK(film_frames(run.path("film"), "components", "png", 0).size() == 2);
}

TEST_CASE("What a report cannot write does not cost the run", "[report]") {
  Run run;
  run.config.epochs = 1;
  // Files stand where folders are needed, and a folder where the page is.
  fs::create_directories(run.path("report.html/x"));
  std::ofstream(run.path("film")) << "in the way";
  std::ofstream(run.path("tensorboard")) << "in the way";
  run.train(StartMode::fresh, run.observers());
  CHECK(content(run.path("film")) == "in the way");
  CHECK(fs::exists(run.path("last.safetensors")));
  CHECK(lines_of(run.path("environment.jsonl")) == 1);
}
