// What users give by mistake: each is one line that says what to do, or a counted skip, and nothing is lost.
#include "data/png.h"
#include "engine/files.h"
#include "models/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/pictures.h"
#include "tests/support/program.h"
#include "tests/support/tiny_training.h"

#include <nlohmann/json.hpp>

#include <set>
#include <sstream>

using namespace dino;
using namespace dino::test;

namespace {

std::string text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// A folder with ten pictures in two classes, a configuration, and a network that was trained for an epoch.
class Bench {
 public:
  Bench() {
    for (int i = 0; i < 10; ++i) add_picture("images", i);
    TrainConfig config = tiny_config();
    config.epochs = 1;
    config.data_path = path("images");
    folder_.write("config.toml", write_config(config));
    const Outcome trained = train({"--output_dir", path("run")});
    INFO(trained.errors);
    REQUIRE(trained.status == 0);
  }

  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string weights() const { return path("run/last.safetensors"); }
  std::string write(const std::string& name, std::string_view content) const {
    return folder_.write(name, content).string();
  }
  void add_picture(const std::string& name, int i) const {
    Image picture;
    DrawnPictures(100).decode(i, picture);
    const std::string file = fmt::format("{}/class{}/{}.png", name, i % 2, i);
    folder_.write(file, text_of(encode_png(picture.rgb, picture.height, picture.width, 3)));
  }

  Outcome train(const std::vector<std::string>& more, const ProgramLimits& limits = {}) const {
    std::vector<std::string> words{"train", path("config.toml")};
    words.insert(words.end(), more.begin(), more.end());
    return run_program(words, limits);
  }
  Outcome train_on(const std::string& data) const {
    return train({"--data_path", data, "--output_dir", path("never")});
  }
  Outcome knn(const std::string& weights, const std::string& images) const {
    return run_program(
        {"eval", "knn", "--weights", weights, "--train", path("images"), "--test", images, "--k", "1", "--json"});
  }
  Outcome attention(const std::vector<std::string>& more) const {
    std::vector<std::string> words{"attention", "--weights", weights(), "--image-size", "16"};
    words.insert(words.end(), more.begin(), more.end());
    return run_program(words);
  }

 private:
  TemporaryFolder folder_;
};

/// A failure of one line in which `part` occurs.
void check_refused(const Outcome& outcome, const std::string& part) {
  INFO("status " << outcome.status << ": " << outcome.errors);
  CHECK((outcome.status == 1 || outcome.status == 2));
  CHECK(is_one_line_error(outcome.errors));
  CHECK(contains(outcome.errors, part));
}

/// A JPEG whose header claims 20,000 × 20,000 pixels.
std::string huge_jpeg() {
  std::string bytes = text_of(encode_jpeg(gradient_image(16, 16)));
  const std::size_t frame = bytes.find("\xff\xc0");
  REQUIRE(frame != std::string::npos);
  const char side[] = {0x4e, 0x20};  // 20,000
  bytes.replace(frame + 5, 2, side, 2);
  bytes.replace(frame + 7, 2, side, 2);
  return bytes;
}

}  // namespace

TEST_CASE("Folders that cannot be trained on are refused") {
  const Bench bench;
  check_refused(bench.train_on(bench.path("missing")), bench.path("missing"));
  std::filesystem::create_directories(bench.path("empty"));
  check_refused(bench.train_on(bench.path("empty")), bench.path("empty"));
  bench.write("text/notes.md", "no picture");
  check_refused(bench.train_on(bench.path("text")), bench.path("text"));
  CHECK_FALSE(std::filesystem::exists(bench.path("never/last.safetensors")));
}

TEST_CASE("Broken pictures are skipped and counted, and fail where there are no others") {
  const Bench bench;
  const std::string sound = text_of(encode_jpeg(gradient_image(40, 30)));
  const std::vector<std::pair<std::string, std::string>> broken{
      {"text.jpg", "this is no picture"},
      {"empty.jpg", ""},
      {"cut.jpg", sound.substr(0, sound.size() / 2)},
      {"header_only.jpg", sound.substr(0, 30)},
      {"huge.jpg", huge_jpeg()},
      {"huge.png", text_of(handmade_png(20000, 20000, 8, 2, ""))}};
  for (int i = 0; i < 10; ++i) bench.add_picture("mixed", i);
  for (const auto& [name, content] : broken) {
    INFO(name);
    bench.write("mixed/class0/" + name, content);
    bench.write("only_" + name + "/class0/" + name, content);
    bench.write("only_" + name + "/class0/second_" + name, content);
    const Outcome alone = bench.train({"--data_path", bench.path("only_" + name), "--output_dir", bench.path(name)});
    INFO(alone.errors);
    CHECK(alone.status == 1);
    CHECK(contains(alone.errors, "\ndino_cuda: "));
    CHECK(contains(alone.errors, name));
    check_refused(bench.attention({bench.path("mixed/class0/" + name), "--output", bench.path("pictures")}), name);
  }

  const Outcome trained = bench.train(
      {"--data_path", bench.path("mixed"), "--output_dir", bench.path("mixed_run"), "--max_broken_share", "0.5"});
  INFO(trained.errors);
  CHECK(trained.status == 0);
  CHECK(contains(trained.errors, "6 broken pictures so far were replaced"));
  std::stringstream list(read_text_file(bench.path("mixed_run/broken_images.jsonl")));
  std::set<std::string> listed;
  for (std::string line; std::getline(list, line);) listed.insert(nlohmann::json::parse(line).at("name"));
  CHECK(listed.size() == 6);
  for (const auto& [name, content] : broken) CHECK(listed.contains(bench.path("mixed/class0/" + name)));

  // The default allows a tenth. What was learned until then is kept, and goes on when more is allowed.
  const Outcome stopped = bench.train({"--data_path", bench.path("mixed"), "--output_dir", bench.path("stopped_run")});
  CHECK(stopped.status == 1);
  CHECK(contains(stopped.errors, "\ndino_cuda: [loader] too many broken pictures; got 2 of 16, expected at most 10 %"));
  const Outcome resumed = bench.train({"--data_path", bench.path("mixed"), "--output_dir", bench.path("stopped_run"),
                                       "--max_broken_share", "1", "--resume"});
  INFO(resumed.errors);
  CHECK(resumed.status == 0);

  const Outcome measured = bench.knn(bench.weights(), bench.path("mixed"));
  INFO(measured.errors);
  REQUIRE(measured.status == 0);
  CHECK(contains(measured.errors, "left out 6 of 16 images"));
  const auto json = nlohmann::json::parse(measured.output);
  CHECK(json.at("broken_images") == 6);
  CHECK(json.at("test_images") == 10);

  // Some of several: the sound ones are drawn.
  const Outcome drawn = bench.attention(
      {bench.path("mixed/class0/text.jpg"), bench.path("mixed/class0/0.png"), "--output", bench.path("pictures")});
  CHECK(drawn.status == 1);
  CHECK(contains(drawn.output, "left out: "));
  CHECK(drawn.errors.ends_with("dino_cuda: [attention] 1 of 2 images were left out, for the reasons above\n"));
  CHECK(std::filesystem::exists(bench.path("pictures/0_sheet.png")));
}

TEST_CASE("Pictures of one pixel and of one row are pictures") {
  const Bench bench;
  const std::vector<std::uint8_t> grey(20000, 128);
  for (const int width : {1, 20000}) {
    INFO(width);
    const std::string folder = "width" + std::to_string(width);
    const std::string name = folder + "/class0/line.png";
    for (int i = 0; i < 4; ++i) bench.add_picture(folder, i);
    bench.write(name, text_of(encode_png(std::span(grey).first(static_cast<std::size_t>(width)), 1, width, 1)));
    const Outcome trained =
        bench.train({"--data_path", bench.path(folder), "--output_dir", bench.path(folder + "_run")});
    INFO(trained.errors);
    CHECK(trained.status == 0);
    CHECK_FALSE(contains(trained.errors, "broken"));
    CHECK(bench.knn(bench.weights(), bench.path(folder)).status == 0);
  }
  CHECK(bench.attention({bench.path("width1/class0/line.png"), "--output", bench.path("pictures")}).status == 0);
  CHECK(bench.attention({bench.path("width20000/class0/line.png"), "--output", bench.path("pictures")}).status == 0);
  check_refused(bench.attention({bench.path("width20000/class0/line.png"), "--image-size", "480"}), "--image-size");
}

TEST_CASE("Weights that are none, damaged or of another shape are refused") {
  const Bench bench;
  const std::string whole = read_text_file(bench.weights());
  const auto refused = [&](const std::string& name, std::string_view content) {
    INFO(name);
    const std::string file = bench.write(name, content);
    check_refused(bench.knn(file, bench.path("images")), file);
  };
  check_refused(bench.knn(bench.path("missing.safetensors"), bench.path("images")), "missing.safetensors");
  check_refused(bench.knn(bench.path("images"), bench.path("images")), bench.path("images"));
  for (const char* suffix : {".safetensors", ".pth"}) {
    refused(fmt::format("empty{}", suffix), "");
    refused(fmt::format("text{}", suffix), "not weights at all");
    refused(fmt::format("cut{}", suffix), std::string_view(whole).substr(0, whole.size() / 2));
  }
  refused("cut_by_one.safetensors", std::string_view(whole).substr(0, whole.size() - 1));

  const SafetensorsFile file = SafetensorsFile::read(bench.weights());
  const auto rewritten = [&](const std::string& name, const std::function<bool(NamedArray&)>& keep) {
    std::vector<NamedArray> arrays;
    for (const std::string& tensor : file.names()) {
      NamedArray array{tensor, file[tensor]};
      if (keep(array)) arrays.push_back(array);
    }
    const std::string path = bench.path(name);
    write_safetensors(path, arrays, file.metadata());
    return path;
  };
  const std::vector<float> seven(7);
  const std::string other_shape = rewritten("other_shape.safetensors", [&](NamedArray& array) {
    if (array.name == "teacher.backbone.blocks.0.mlp.fc1.weight") array.array = ConstArray(seven.data(), Shape{7});
    return true;
  });
  check_refused(bench.knn(other_shape, bench.path("images")), "blocks.0.mlp.fc1.weight");
  const std::string lacking = rewritten("lacking.safetensors", [](NamedArray& array) {
    return array.name != "teacher.backbone.blocks.0.mlp.fc1.weight";
  });
  check_refused(bench.knn(lacking, bench.path("images")), "blocks.0.mlp.fc1.weight");
}

TEST_CASE("Configurations with mistakes are refused, with the key") {
  const Bench bench;
  const auto refused = [&](const std::string& text, const std::string& part) {
    INFO(text);
    check_refused(run_program({"train", bench.write("wrong.toml", text)}), part);
  };
  refused("epochs = \"many\"", "epochs");
  refused("epochs = 1.5", "epochs");
  refused("epohcs = 3", "epochs");
  refused("lr = -1", "lr");
  refused("epochs = ", "wrong.toml");
  refused("epochs = 99999999999999999999", "64 bits");
  refused("epochs = 9999999999", "epochs");
  refused("out_dim = 0", "out_dim");
  check_refused(run_program({"train", bench.path("missing.toml")}), "missing.toml");
  check_refused(bench.train({"--epohcs", "3"}), "epochs");
  check_refused(bench.train({"--epochs", "three"}), "epochs");
  check_refused(bench.train({"--epochs"}), "epochs");
  check_refused(run_program({"trian"}), "try train");
  for (const char* k : {"0", "-1", "x"}) {
    check_refused(run_program({"eval", "knn", "--weights", "w", "--train", "a", "--test", "b", "--k", k}),
                  fmt::format("--k: Value {} is not a positive number; try --help", k));
  }
}

TEST_CASE("What the system will not even look up is refused with its reason") {
  const Bench bench;
  std::filesystem::create_symlink("loop", bench.path("loop"));
  const std::string reason = ": Too many levels of symbolic links\n";
  check_refused(run_program({"report", bench.path("loop")}),
                "[file] cannot read " + bench.path("loop/log.jsonl") + reason);
  check_refused(run_program({"compare", bench.path("loop")}), reason);
  check_refused(run_program({"video", bench.path("loop"), "--weights", bench.weights(), "--output", bench.path("v")}),
                reason);
  check_refused(bench.knn(bench.weights(), bench.path("loop")), reason);
  // Not: that there is nothing to resume, and that the picture does not exist.
  check_refused(bench.train({"--output_dir", bench.path("loop"), "--resume", "--quiet"}), reason);
  check_refused(run_program({"search", bench.path("loop"), "--features", "f.safetensors"}),
                "cannot read " + bench.path("loop") + ": Too many levels of symbolic links");
  check_refused(bench.knn(bench.path("loop"), bench.path("images")),
                "cannot read " + bench.path("loop") + ": Too many levels of symbolic links");
}

TEST_CASE("Output that cannot be written is refused before the work, and a finished run is not overwritten") {
  const Bench bench;
  const std::string file = bench.write("file", "precious");
  const std::string below_file = file + "/folder";
  const Outcome trained = bench.train({"--output_dir", below_file});
  INFO(trained.errors);
  CHECK(trained.status == 1);
  CHECK(contains(trained.errors, "cannot make the folder " + below_file));
  check_refused(bench.attention({bench.path("images/class0/0.png"), "--output", below_file}), below_file);
  check_refused(
      bench.attention({bench.path("images/class0/0.png"), "--output", bench.path("pictures"), "--raw", below_file}),
      below_file);
  CHECK_FALSE(std::filesystem::exists(bench.path("pictures/0_sheet.png")));
  CHECK(read_text_file(file) == "precious");

  const std::string before = read_text_file(bench.weights());
  const Outcome again = bench.train({"--output_dir", bench.path("run")});
  INFO(again.errors);
  CHECK(again.status == 1);
  CHECK(contains(again.errors, "--resume"));
  CHECK(read_text_file(bench.weights()) == before);
}

// The thread sanitizer maps a temporary file of its own, which must not be cut off.
#ifndef __SANITIZE_THREAD__
TEST_CASE("A full disk stops a run with an error, and what was saved stays") {
  const Bench bench;
  const std::string before = read_text_file(bench.weights());
  const auto files_before = std::distance(std::filesystem::directory_iterator(bench.path("run")), {});
  const ProgramLimits small{.file_bytes = static_cast<std::int64_t>(before.size()) / 2};
  const Outcome resumed = bench.train({"--output_dir", bench.path("run"), "--epochs", "2", "--resume"}, small);
  INFO(resumed.errors);
  CHECK(resumed.status == 1);
  CHECK(contains(resumed.errors, "last.safetensors"));
  CHECK(contains(resumed.errors, "File too large"));
  CHECK(read_text_file(bench.weights()) == before);
  CHECK(std::distance(std::filesystem::directory_iterator(bench.path("run")), {}) == files_before);
  CHECK(bench.train({"--output_dir", bench.path("run"), "--epochs", "2", "--resume"}).status == 0);
}
#endif

TEST_CASE("A device that is full where results are printed is an error") {
  const Bench bench;
  const Outcome printed = run_program({"eval", "knn", "--weights", bench.weights(), "--train", bench.path("images"),
                                       "--test", bench.path("images"), "--k", "1"},
                                      {.output = "/dev/full"});
  INFO(printed.errors);
  CHECK(printed.status == 1);
  CHECK(contains(printed.errors, "dino_cuda: [output] cannot write the output: No space left on device\n"));
}
