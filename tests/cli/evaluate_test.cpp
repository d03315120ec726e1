// The commands that measure and look, run as a user runs them on a network that was trained for an epoch.
#include "data/png.h"
#include "engine/files.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"
#include "tests/support/pictures.h"
#include "tests/support/program.h"
#include "tests/support/tiny_training.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>

using namespace dino;
using namespace dino::test;

namespace {

std::string png_of(const Image& picture) {
  const std::vector<std::byte> bytes = encode_png(picture.rgb, picture.height, picture.width, 3);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Training and test pictures in two classes, and weights.
class Bench {
 public:
  Bench() {
    for (int i = 0; i < 40; ++i) {
      Image picture;
      DrawnPictures(100).decode(i, picture);
      folder_.write(fmt::format("{}/class{}/{}.png", i < 24 ? "train" : "test", i % 2, i), png_of(picture));
    }
    TrainConfig config = tiny_config();
    config.epochs = 1;
    config.data_path = path("train");
    folder_.write("config.toml", write_config(config));
    const Outcome trained = run_program({"train", path("config.toml"), "--output_dir", path("run")});
    INFO(trained.errors);
    REQUIRE(trained.status == 0);
  }

  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string weights() const { return path("run/last.safetensors"); }
  std::string write(const std::string& name, std::string_view content) const {
    return folder_.write(name, content).string();
  }

  std::vector<std::string> linear(const std::vector<std::string>& more) const {
    std::vector<std::string> words{"eval",   "linear",     "--weights", weights(), "--train", path("train"),
                                   "--test", path("test"), "--batch",   "8",       "--lr",    "1,10"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

 private:
  TemporaryFolder folder_;
};

nlohmann::json json_of(const Outcome& outcome) {
  INFO(outcome.errors);
  REQUIRE(outcome.status == 0);
  return nlohmann::json::parse(outcome.output);
}

void check_refused(const Outcome& outcome, const std::string& part) {
  INFO("status " << outcome.status << ": " << outcome.errors);
  CHECK((outcome.status == 1 || outcome.status == 2));
  CHECK(is_one_line_error(outcome.errors));
  CHECK(contains(outcome.errors, part));
}

}  // namespace

TEST_CASE("eval linear reports every learning rate and how the best was chosen") {
  const Bench bench;
  for (const char* cached : {"", "--cached"}) {
    std::vector<std::string> more{"--epochs", "3", "--json"};
    if (*cached != 0) more.emplace_back(cached);
    const auto json = json_of(run_program(bench.linear(more)));
    CHECK(json.at("cached") == (*cached != 0));
    CHECK(json.at("train_images") == 24);
    CHECK(json.at("test_images") == 16);
    CHECK(json.at("blocks") == 2);  // of a network with two
    CHECK(json.at("width") == 48);
    CHECK(json.at("chosen_on") == "test");
    REQUIRE(json.at("classifiers").size() == 2);
    CHECK(json.at("classifiers")[1].at("lr") == 10);
    CHECK(json.at("best").at("top1").get<double>() >= json.at("classifiers")[0].at("top1").get<double>());
  }
  const Outcome table = run_program(bench.linear({"--epochs", "2", "--cached", "--choose", "held-out"}));
  INFO(table.output);
  CHECK(table.status == 0);
  CHECK(contains(table.output, "20 training, 4 held-out and 16 test images"));
  CHECK(contains(table.output, "(--cached)"));
  CHECK(contains(table.output, "chosen on a held-out tenth"));
  check_refused(run_program(bench.linear({"--lr", "0"})), "--lr");
  check_refused(run_program(bench.linear({"--blocks", "9"})), "the network has 2");
  check_refused(run_program(bench.linear({"--resume"})), "--state");
  check_refused(run_program({"eval", "linear", "--weights", bench.weights(), "--train", bench.path("train"), "--test",
                             bench.path("train")}),
                "expected two sets");
}

TEST_CASE("eval linear stopped by Ctrl-C goes on to the same numbers") {
  const Bench bench;
  const auto whole = json_of(run_program(bench.linear({"--epochs", "300", "--json"})));
  const std::string state = bench.path("probe.safetensors");
  Program program(bench.linear({"--epochs", "300", "--json", "--state", state}));
  const auto epochs_done = [&] {
    if (!std::filesystem::exists(state)) return std::size_t{0};
    return nlohmann::json::parse(SafetensorsFile::read(state).metadata("epochs")).size();
  };
  while (program.is_running() && epochs_done() < 3) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  program.send(SIGINT);
  const Outcome stopped = program.wait();
  INFO(stopped.errors);
  REQUIRE(stopped.status == 128 + SIGINT);
  CHECK(contains(stopped.errors, "with --resume goes on"));
  CHECK(nlohmann::json::parse(stopped.output).at("epochs").get<int>() < 300);
  check_refused(run_program(bench.linear({"--epochs", "300", "--state", state})), "--resume");
  const auto resumed = json_of(run_program(bench.linear({"--epochs", "300", "--json", "--state", state, "--resume"})));
  CHECK(resumed.at("classifiers") == whole.at("classifiers"));
  CHECK(resumed.at("best") == whole.at("best"));
}

TEST_CASE("eval knn with few shots gives means over draws") {
  const Bench bench;
  const auto json =
      json_of(run_program({"eval", "knn", "--weights", bench.weights(), "--train", bench.path("train"), "--test",
                           bench.path("test"), "--k", "1,5", "--shots", "1,100", "--seeds", "3", "--json"}));
  const auto& rows = json.at("few_shot").at("knn");
  REQUIRE(rows.size() == 4);
  // With all images of each class, every draw is the whole set.
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(rows[2 + i].at("top1").get<double>() == Approx(json.at("knn")[i].at("top1").get<double>()));
    CHECK(rows[2 + i].at("top1_deviation").get<double>() < 1e-9);
  }
}

TEST_CASE("features, search and dedupe work on one file") {
  const Bench bench;
  // A copy under another name.
  std::filesystem::copy_file(bench.path("train/class0/2.png"), bench.path("train/class1/copy.png"));
  const std::string file = bench.path("features.safetensors");
  const auto features = [&](const std::string& out, const std::vector<std::string>& more = {}) {
    std::vector<std::string> words{"features", bench.path("train"), "--weights", bench.weights(), "--out", out};
    words.insert(words.end(), more.begin(), more.end());
    return run_program(words);
  };
  const Outcome written = features(file);
  INFO(written.errors);
  REQUIRE(written.status == 0);
  CHECK(contains(written.output, "25 images × 24 numbers, 2 classes"));
  CHECK(features(bench.path("f.npy"), {"--blocks", "2", "--raw"}).status == 0);
  CHECK(contains(read_text_file(bench.path("f.csv")), "copy.png,1,class1"));
  check_refused(features(bench.path("f.txt")), ".npy");

  const auto search = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words{"search",   bench.path("train/class0/2.png"), "--features", file,
                                   "--output", bench.path("nearest.png")};
    words.insert(words.end(), more.begin(), more.end());
    return run_program(words);
  };
  const auto found = json_of(search({"--count", "3", "--json"}));
  REQUIRE(found.size() == 1);
  REQUIRE(found[0].at("nearest").size() == 3);
  // The query itself is left out, its copy is first.
  CHECK(contains(found[0].at("nearest")[0].at("path").get<std::string>(), "copy.png"));
  CHECK(found[0].at("nearest")[0].at("similarity").get<double>() > 0.9999);
  CHECK(found[0].at("nearest")[1].at("similarity").get<double>() >=
        found[0].at("nearest")[2].at("similarity").get<double>());
  CHECK(std::filesystem::file_size(bench.path("nearest.png")) > 500);

  const Outcome at_zero = run_program({"dedupe", "--features", file, "--threshold", "0"});
  CHECK(at_zero.status == 2);  // before anything is read
  CHECK(contains(at_zero.errors, "--threshold: Value 0 is not a positive number"));
  const auto copies = json_of(
      run_program({"dedupe", "--features", file, "--threshold", "1", "--sheet", bench.path("s.png"), "--json"}));
  CHECK(copies.at("copies").get<int>() >= 1);
  const auto holds_both = [](const nlohmann::json& group) {
    const std::string text = group.dump();
    return contains(text, "class0/2.png") && contains(text, "class1/copy.png");
  };
  CHECK(std::any_of(copies.at("groups").begin(), copies.at("groups").end(), holds_both));
  CHECK(std::filesystem::exists(bench.path("s.png")));
  CHECK(std::filesystem::exists(bench.path("train/class1/copy.png")));
  const auto direct =
      json_of(run_program({"dedupe", bench.path("train"), "--weights", bench.weights(), "--threshold", "1", "--json"}));
  CHECK(direct.at("groups") == copies.at("groups"));
  check_refused(run_program({"dedupe"}), "--features");
  // It computes where it is told to.
  check_refused(run_program({"dedupe", "--features", file, "--device", "cuda:99"}), "cuda:99");

  // Weights that have gone on since.
  REQUIRE(
      run_program({"train", bench.path("config.toml"), "--output_dir", bench.path("run"), "--resume", "--epochs", "2"})
          .status == 0);
  check_refused(search({}), "other weights");
}

TEST_CASE("Every command takes weights that come from elsewhere") {
  // A tensor too many, and nothing that says how many heads there are.
  const TemporaryFolder folder;
  const SafetensorsFile golden = SafetensorsFile::read(golden_dir() / "backbone.safetensors");
  const std::vector<float> ones(4, 1.0F);
  std::vector<NamedArray> arrays{{"blocks.0.register", ConstArray(ones.data(), Shape{4})}};
  for (const std::string& name : golden.names()) arrays.push_back({name, golden[name]});
  const std::string weights = (folder.path() / "foreign.safetensors").string();
  write_safetensors(weights, arrays);
  std::filesystem::copy_file(golden_dir() / "photo.png", folder.path() / "photo.png");

  const std::string photo = (folder.path() / "photo.png").string(), csv = (folder.path() / "f.csv").string();
  const std::vector<std::vector<std::string>> commands{
      {"features", folder.path().string(), "--out", csv},
      {"attention", photo, "--output", (folder.path() / "attention").string(), "--image-size", "64"}};
  std::vector<std::string> written;
  for (std::vector<std::string> command : commands) {
    command.insert(command.end(), {"--weights", weights, "--device", "cpu"});
    check_refused(run_program(command), "--allow-unexpected");
    command.push_back("--allow-unexpected");
    for (const char* heads : {"2", "4"}) {
      command.insert(command.end(), {"--heads", heads});
      const Outcome outcome = run_program(command);
      INFO(outcome.errors);
      CHECK(outcome.status == 0);
      if (command[0] == "features") written.push_back(read_text_file(csv));
      command.resize(command.size() - 2);
    }
    command.insert(command.end(), {"--heads", "7"});
    check_refused(run_program(command), "7 heads");
  }
  REQUIRE(written.size() == 2);
  CHECK(written[0] != written[1]);
}

TEST_CASE("attention of all layers, outlined, compared and shown in the terminal") {
  const Bench bench;
  const std::string image = bench.path("train/class0/0.png"), out = bench.path("out");
  const auto attention = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words{"attention", image, "--image-size", "16", "--output", out};
    words.insert(words.end(), more.begin(), more.end());
    return run_program(words);
  };
  setenv("CLICOLOR_FORCE", "1", 1);  // the output is no terminal
  const Outcome rollout = attention({"--weights", bench.weights(), "--rollout", "--contours", "--colors", "turbo",
                                     "--preview", "--raw", bench.path("maps.safetensors")});
  unsetenv("CLICOLOR_FORCE");
  INFO(rollout.errors);
  REQUIRE(rollout.status == 0);
  CHECK(contains(rollout.output, "▀"));
  const Outcome plain = attention({"--weights", bench.weights(), "--preview"});
  CHECK_FALSE(plain.output.find("▀") != std::string::npos);
  CHECK(contains(plain.errors, "no preview"));
  CHECK(std::filesystem::exists(out + "/0_rollout_contour.png"));
  CHECK(SafetensorsFile::read(bench.path("maps.safetensors")).names().size() == 2);
  REQUIRE(attention({"--weights", bench.weights(), "--weights", bench.weights()}).status == 0);
  CHECK(std::filesystem::exists(out + "/0_compare.png"));
  check_refused(attention({"--weights", bench.weights(), "--colors", "jet"}), "--colors");
  for (const std::vector<std::string>& one : {std::vector<std::string>{"--head", "0"}, {"--layer", "0"}}) {
    std::vector<std::string> words{"--weights", bench.weights(), "--rollout"};
    words.insert(words.end(), one.begin(), one.end());
    check_refused(attention(words), "--rollout is of all heads and layers");
    words.insert(words.begin(), {"video", bench.path("train/class0"), "--output", bench.path("v")});
    check_refused(run_program(words), "--rollout is of all heads and layers");
  }
}

TEST_CASE("pca and video draw what they are given") {
  const Bench bench;
  Outcome outcome = run_program({"pca", bench.path("train/class0/0.png"), bench.path("train/class1/1.png"), "--weights",
                                 bench.weights(), "--image-size", "64", "--output", bench.path("pca")});
  INFO(outcome.errors);
  REQUIRE(outcome.status == 0);
  CHECK(contains(outcome.output, "2 images"));
  CHECK(std::filesystem::exists(bench.path("pca/pca_sheet.png")));
  CHECK(std::filesystem::exists(bench.path("pca/01_1_pca.png")));
  for (const char* show : {"overlay", "both", "mask", "contour"}) {
    outcome = run_program({"video", bench.path("train/class0"), "--weights", bench.weights(), "--image-size", "16",
                           "--output", bench.path(show), "--show", show});
    INFO(outcome.errors);
    REQUIRE(outcome.status == 0);
    CHECK(contains(outcome.output, "12 frames"));
    CHECK(std::filesystem::exists(bench.path(std::string(show) + "/frame_000012.png")));
  }
  CHECK_FALSE(contains(outcome.errors, "of an earlier run"));
  std::filesystem::remove(bench.path("train/class0/0.png"));
  outcome = run_program({"video", bench.path("train/class0"), "--weights", bench.weights(), "--image-size", "16",
                         "--output", bench.path("mask")});
  CHECK(outcome.status == 0);
  CHECK(contains(outcome.errors, "frame_000012.png and what follows are frames of an earlier run"));
  check_refused(run_program({"video", bench.path("none"), "--weights", bench.weights(), "--output", bench.path("v")}),
                "none");
  const std::vector<std::string> one{
      "pca", bench.path("train/class1/1.png"), "--weights", bench.weights(), "--output", bench.path("pca")};
  const auto at_size = [&](const char* px) {
    std::vector<std::string> words = one;
    words.insert(words.end(), {"--image-size", px});
    return run_program(words);
  };
  outcome = at_size("8");
  CHECK(outcome.status == 1);
  CHECK(contains(outcome.errors, "one patch in all; expected two or more; try a larger --image-size"));
  // Its crops had 16 pixels.
  CHECK_FALSE(contains(at_size("64").errors, "note:"));
  CHECK(contains(at_size("72").errors, "note: the network has learned at 16 px and sees 72 px here; --image-size 32"));
}

TEST_CASE("a run that is done says so when it is resumed") {
  const Bench bench;
  const Outcome outcome =
      run_program({"train", bench.path("config.toml"), "--output_dir", bench.path("run"), "--resume"});
  CHECK(outcome.status == 0);
  CHECK(contains(outcome.errors, "\nall epochs of this run are done; it goes on with more --epochs\n"));
}

TEST_CASE("neighbours that are too many, and classes that are too few, are named") {
  const Bench bench;
  const Outcome outcome = run_program({"eval", "knn", "--weights", bench.weights(), "--train", bench.path("train"),
                                       "--test", bench.path("test"), "--k", "3,5000"});
  INFO(outcome.errors);
  REQUIRE(outcome.status == 0);
  CHECK(contains(outcome.output, "\n     3  "));
  CHECK(contains(outcome.output, "\nall 24  "));
  std::filesystem::create_directory(bench.path("one"));
  std::filesystem::copy(bench.path("train/class0"), bench.path("one/class0"));
  check_refused(run_program({"train", "--data_path", bench.path("one"), "--output_dir", bench.path("fresh"),
                             "--knn_every", "1", "--quiet"}),
                "has one class, so every answer is right");
  CHECK_FALSE(std::filesystem::exists(bench.path("fresh")));
}
