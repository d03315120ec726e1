// Whatever pictures, classes, frames and weights are called, results stay in the folder that they are meant for, and
// none takes the place of another or of what it is made from.
#include "data/png.h"
#include "engine/files.h"
#include "engine/text.h"
#include "evaluate/feature_file.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/program.h"
#include "tests/support/tiny_training.h"

#include <nlohmann/json.hpp>

#include <map>
#include <set>

using namespace dino;
using namespace dino::test;

namespace fs = std::filesystem;

namespace {

using Words = std::vector<std::string>;

Words operator+(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// A folder with everything in it: pictures, weights, and `work`, where the program runs.
class World {
 public:
  World() {
    fs::create_directory(folder_.path() / "work");
    for (int i = 0; i < 6; ++i) add(fmt::format("images/class{}/{}.png", i % 2, i));
    TrainConfig config = tiny_config();
    config.epochs = 1;
    config.threads = 1;
    folder_.write("config.toml", write_config(config));
    const Outcome trained =
        run({"train", path("config.toml"), "--data_path", path("images"), "--output_dir", path("run")});
    INFO(trained.errors);
    REQUIRE(trained.status == 0);
  }

  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string weights() const { return path("run/last.safetensors"); }
  /// Makes a picture, each another one.
  std::string add(const std::string& name) {
    Image picture;
    DrawnPictures(1000).decode(next_++, picture);
    folder_.write(name, encode_png(picture.rgb, picture.height, picture.width, 3));
    return path(name);
  }
  std::string write(const std::string& name, std::string_view content) const {
    return folder_.write(name, content).string();
  }
  Outcome run(const Words& words) const { return run_program(words, {.working_folder = path("work")}); }

  /// Every file, link and folder but those below `out`, with what it holds.
  std::map<std::string, std::string> all_but(const std::string& out) const {
    std::map<std::string, std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(folder_.path())) {
      const std::string name = entry.path().string();
      if (name == path(out) || name.starts_with(path(out) + "/")) continue;
      found[name] = entry.is_symlink()        ? "to " + fs::read_symlink(entry.path()).string()
                    : entry.is_regular_file() ? read_text_file(entry.path())
                                              : "";
    }
    return found;
  }
  /// Runs the program, which must succeed and may change nothing but what is below `out`.
  Outcome run_within(const std::string& out, const Words& words) const {
    const auto before = all_but(out);
    const Outcome outcome = run(words);
    INFO(words[0] << ": " << outcome.errors);
    CHECK(outcome.status == 0);
    CHECK(all_but(out) == before);
    return outcome;
  }
  /// Runs the program, which must refuse and change nothing.
  void check_refused(const Words& words, const std::string& part) const {
    const auto before = all_but("");
    const Outcome outcome = run(words);
    INFO(words[0] << ": " << outcome.errors);
    CHECK(outcome.status == 1);
    CHECK(is_one_line_error(outcome.errors));
    CHECK(contains(outcome.errors, part));
    CHECK(all_but("") == before);
  }

 private:
  TemporaryFolder folder_;
  int next_ = 0;
};

/// The files of a result in JSON: all there, in the folder, and no two the same.
void check_files(const std::vector<std::string>& files, const fs::path& folder) {
  CHECK(std::set<std::string>(files.begin(), files.end()).size() == files.size());
  for (const std::string& file : files) {
    INFO(file);
    CHECK(fs::is_regular_file(fs::symlink_status(file)));
    CHECK(fs::weakly_canonical(file).parent_path() == fs::weakly_canonical(folder));
  }
  const auto in_folder = std::distance(fs::directory_iterator(folder), fs::directory_iterator());
  CHECK(static_cast<std::size_t>(in_folder) == files.size());
}

/// Names that want to get out, to hide one another, or to be too much for a file system or a terminal.
Words odd_names() {
  std::string umlauts;
  for (int i = 0; i < 125; ++i) umlauts += "ä";
  return {"x.png",
          "x.jpg",
          "deeper/x.png",
          std::string(251, 'l') + ".png",
          std::string(250, 'l') + "m.png",
          "..png",
          "...png",
          "-rf.png",
          "two\nlines.png",
          "\x1b[31mred.png",
          "x_2.png",
          ".png",
          "%s%n.png",
          umlauts + ".png",
          "a b;$(touch escaped)`touch y`.png"};
}

}  // namespace

TEST_CASE("Pictures of any name are drawn into the folder that is named, each into files of its own") {
  World world;
  Words images;
  for (const std::string& name : odd_names()) images.push_back(world.add("odd/" + name));
  // The same again by relative ways.
  images.push_back("../odd/x.png");
  images.push_back("../work/../odd/deeper/../x.jpg");
  const Words network{"--weights", world.weights(), "--image-size", "16", "--json"};

  nlohmann::json json = nlohmann::json::parse(
      world.run_within("out", Words{"attention"} + images + network + Words{"--output", "../out"}).output);
  REQUIRE(json.at("images").size() == images.size());
  std::vector<std::string> files;
  for (const auto& image : json.at("images")) {
    for (const std::string file : image.at("pictures")) files.push_back(world.path("work/" + file));
  }
  check_files(files, world.path("out"));

  fs::create_directory(world.path("out2"));
  const Outcome compared = world.run_within(
      "out2", Words{"attention"} + images + network +
                  Words{"--output", world.path("out2"), "--weights", world.path("run/previous.safetensors")});
  files.clear();
  json = nlohmann::json::parse(compared.output);
  for (const auto& image : json.at("images")) files.push_back(image.at("sheet"));
  CHECK(files.size() == images.size());
  check_files(files, world.path("out2"));

  json = nlohmann::json::parse(world
                                   .run_within("out3", Words{"pca"} + images +
                                                           Words{"--weights", world.weights(), "--image-size", "64",
                                                                 "--json", "--output", world.path("out3")})
                                   .output);
  files = json.at("pictures").get<std::vector<std::string>>();
  CHECK(files.size() == images.size());
  files.push_back(json.at("sheet"));
  check_files(files, world.path("out3"));

  // What is said for people steers no terminal, and numbers have a name each.
  const Outcome said =
      world.run_within("out", Words{"attention"} + images +
                                  Words{"--weights", world.weights(), "--image-size", "16", "--head", "mean",
                                        "--output", world.path("out"), "--raw", world.path("out/maps.safetensors")});
  CHECK(contains(said.output, R"(/two\x0alines.png: )"));
  CHECK(contains(said.output, R"(/\x1b[31mred.png: )"));
  CHECK(said.output.find('\x1b') == std::string::npos);

  fs::remove(world.path("odd/deeper/x.png"));
  fs::remove(world.path("odd/deeper"));
  world.run_within("out4", {"video", world.path("odd"), "--weights", world.weights(), "--image-size", "16", "--output",
                            world.path("out4")});
  for (const auto& entry : fs::directory_iterator(world.path("out4")))
    CHECK(entry.path().filename().string().starts_with("frame_0000"));
}

TEST_CASE("Names that are not UTF-8 are pictures as well") {
  World world;
  const Words images{world.add("odd/\xff\xfe.png"), world.add("odd/M\xfcller.png")};
  const Words network{"--weights", world.weights(), "--image-size", "16"};
  world.run_within("out", Words{"attention"} + images + network +
                              Words{"--output", world.path("out"), "--raw", world.path("out/maps.safetensors")});
  world.run_within("out", Words{"pca"} + images +
                              Words{"--weights", world.weights(), "--image-size", "64", "--output", world.path("out")});
  CHECK(fs::exists(world.path("out/M\xfcller_sheet.png")));
  CHECK(fs::exists(world.path("out/01_M\xfcller_pca.png")));
  world.run_within(
      "out", {"features", world.path("odd"), "--weights", world.weights(), "--out", world.path("out/f.safetensors")});
  const Words search{
      "search", images[0], "--features", world.path("out/f.safetensors"), "--output", world.path("out/n.png")};
  // The query itself is known again, and the other one is named.
  CHECK(contains(world.run_within("out", search).output, R"(odd/M\xfcller.png)"));
  const nlohmann::json found = nlohmann::json::parse(world.run_within("out", search + Words{"--json"}).output);
  REQUIRE(found.at(0).at("nearest").size() == 1);
  CHECK(found.at(0).at("query").get<std::string>().ends_with(R"(odd/\xff\xfe.png)"));
  CHECK(found.at(0).at("nearest").at(0).at("path").get<std::string>().ends_with(R"(odd/M\xfcller.png)"));
}

TEST_CASE("No name reaches a terminal as it is, and results hold every one as text") {
  World world;
  const Words names{"M\xfcller.png",
                    "two\nlines.png",
                    "\x1b[2Jred.png",
                    "quote\".png",
                    "com,ma.png",
                    "tab\t\x7f.png",
                    "c1 \xc2\x9b"
                    "1m.png",
                    "日本.png"};
  for (const std::string& name : names) {
    world.add("odd/" + name);
    fs::copy_file(world.path("odd/" + name), world.path("odd/copy of " + name));
    world.write("odd/broken " + name, "no picture");
  }
  const auto harmless = [&](const Words& words) {
    const Outcome outcome = world.run_within("out", words);
    INFO(words[0]);
    for (const std::string& text : {outcome.output, outcome.errors}) CHECK(printable_lines(text) == text);
    return outcome.output;
  };
  const Words network{"--weights", world.weights()};
  const auto has_all = [&](const std::vector<std::string>& paths) {
    std::set<std::string> found;
    for (const std::string& path : paths) found.insert(fs::path(path).filename().string());
    for (const std::string& name : names) {
      INFO(printable(name));
      CHECK(found.contains(escaped_bytes(name)));
    }
  };
  fs::create_directory(world.path("out"));
  const std::string weird = world.path("out/\x1b[2J M\xfc");
  for (const std::string& out : {weird + ".safetensors", weird + ".csv", weird + ".npy"}) {
    harmless(Words{"features", world.path("odd"), "--out", out} + network);
    const auto json =
        nlohmann::json::parse(harmless(Words{"features", world.path("odd"), "--out", out, "--json"} + network));
    CHECK(json.at("files").at(0) == escaped_bytes(out));
    CHECK(json.at("broken_images") == names.size());
  }
  CHECK(is_utf8(read_text_file(weird + ".csv")));
  const NamedFeatures features = read_features(weird + ".safetensors");
  std::set<std::string> known;
  for (const std::string& name : features.names) known.insert(fs::path(name).filename().string());
  CHECK(known.size() == 2 * names.size());
  for (const std::string& name : names) CHECK((known.contains(name) && known.contains("copy of " + name)));

  Words search{"search", "--features", weird + ".safetensors", "--count", "20", "--output", weird + ".png"};
  for (const std::string& name : names) search.push_back(world.path("odd/" + name));
  harmless(search);
  std::vector<std::string> paths;
  for (const auto& query : nlohmann::json::parse(harmless(search + Words{"--json"}))) {
    paths.push_back(query.at("query"));
    CHECK(query.at("nearest").size() == 2 * names.size() - 1);
  }
  has_all(paths);

  const Words dedupe{"dedupe", "--features", weird + ".safetensors", "--threshold", "0.98", "--sheet", weird + ".png"};
  harmless(dedupe);
  paths.clear();
  const nlohmann::json copies = nlohmann::json::parse(harmless(dedupe + Words{"--json"}));
  for (const auto& group : copies.at("groups")) {
    for (const auto& picture : group) paths.push_back(picture.at("path"));
  }
  has_all(paths);
  harmless(Words{"dedupe", world.path("odd"), "--threshold", "0.98"} + network);
}

TEST_CASE("A configuration for pictures of any name can be read, and what to type next is quoted") {
  World world;
  for (const char* name : {"M\xfcller.png", "two\nlines = 1.png", "\x1b[31mred.png"}) {
    world.add(std::string("my odd/") + name);
    world.write(std::string("my odd/broken ") + name, "no picture");
    fs::copy_file(world.path(std::string("my odd/") + name), world.path(std::string("my odd/copy of ") + name));
  }
  fs::create_directory(world.path("out"));
  const std::string out = world.path("out/my c.toml");
  const Outcome made = world.run_within("out", {"init", world.path("my odd"), "--device", "cpu", "--out", out});
  CHECK(made.output.find('\x1b') == std::string::npos);
  CHECK(contains(made.output, "3 broken, such as "));
  CHECK(contains(made.output, "\n  dino_cuda plan '" + out + "'\n"));
  CHECK(contains(made.output, " --weights 'runs/my odd/last.safetensors' --image-size "));
  CHECK(read_config(out).data_path == world.path("my odd"));

  fs::rename(world.path("my odd"), world.path("M\xfcller"));
  world.check_refused({"init", world.path("M\xfcller"), "--out", world.path("out/b.toml")}, "is not UTF-8");
  // Before anything is looked at.
  world.check_refused({"init", world.path("images"), "--out", world.path("none/b.toml")}, "cannot write");
}

TEST_CASE("Classes and pictures of a list cannot lead a run or its features elsewhere") {
  World world;
  std::string list;
  const std::string classes[] = {"../../escaped", "/tmp/dino_escaped", "a/b", "<script>alert(1)</script>"};
  for (int i = 0; i < 8; ++i) list += fmt::format("../images/class{}/{}.png\t{}\n", i % 2, i % 6, classes[i % 4]);
  const std::string file = world.write("lists/list.txt", list);
  const Outcome trained = world.run_within(
      "odd_run", {"train", world.path("config.toml"), "--data_path", file, "--output_dir", world.path("odd_run"),
                  "--knn_every", "1", "--knn_k", "1", "--knn_test_path", file, "--tensorboard", "true"});
  CHECK(contains(trained.errors, "report: "));
  const std::string page = read_text_file(world.path("odd_run/report.html"));
  CHECK(page.find("<script>alert") == std::string::npos);
  world.run_within("odd_run", {"report", world.path("odd_run")});
  for (const char* out : {"f.safetensors", "f.npy", "f.csv"}) {
    world.run_within("out", {"features", file, "--weights", world.weights(), "--out",
                             (fs::create_directories(world.path("out")), world.path(std::string("out/") + out))});
  }
  CHECK_FALSE(fs::exists("/tmp/dino_escaped"));

  // A file of features that names what is no picture of anyone's.
  NamedFeatures features = read_features(world.path("out/f.safetensors"));
  const std::string precious = world.write("precious", "precious");
  for (std::size_t i = 0; i < features.names.size(); ++i)
    features.names[i] = i % 2 == 0 ? precious : "../../../../../etc/passwd\n";
  write_features(world.path("out/odd.safetensors"), features);
  const Outcome found =
      world.run_within("out", {"search", world.path("images/class0/0.png"), "--features",
                               world.path("out/odd.safetensors"), "--output", world.path("out/nearest.png")});
  CHECK(contains(found.output, R"(etc/passwd\x0a)"));
  world.run_within("out", {"dedupe", "--features", world.path("out/odd.safetensors"), "--threshold", "0.5", "--sheet",
                           world.path("out/sheet.png")});
}

TEST_CASE("Weights of any name are compared and converted") {
  World world;
  for (const char* name : {"..safetensors", "two\nlines.safetensors", "-x.safetensors", "last.safetensors"}) {
    INFO(name);
    const std::string weights = world.path(std::string("weights/") + name);
    fs::create_directories(world.path("weights"));
    fs::copy_file(world.weights(), weights);
    world.run_within("out", {"attention", world.path("images/class0/0.png"), "--weights", weights, "--weights",
                             world.weights(), "--image-size", "16", "--output", world.path("out")});
    world.run_within("out", {"convert", weights, world.path(std::string("out/") + name), "--to", "dino_cuda"});
    // What is there stays, unless it is said.
    world.check_refused({"convert", weights, world.path(std::string("out/") + name), "--to", "dino_cuda"}, "--force");
    world.check_refused({"convert", weights, weights, "--to", "timm"}, "--force");
  }
}

TEST_CASE("A result does not take the place of what it is made from") {
  World world;
  const std::string images = world.path("images"), a = world.add("photos/a.png");
  const Words network{"--weights", world.weights(), "--image-size", "16"};
  const std::string taken = "would take the place of ";
  for (const char* name : {"a_mean.png", "a_input.png", "a_sheet.png", "a_head1_overlay.png"}) {
    const std::string other = world.add(std::string("photos/") + name);
    world.check_refused(Words{"attention", a, other} + network + Words{"--output", world.path("photos")},
                        taken + other);
    fs::create_symlink(other, world.path("link.png"));
    world.check_refused(
        Words{"attention", a, world.path("link.png")} + network + Words{"--output", world.path("photos")}, taken);
    fs::remove(world.path("link.png"));
    fs::remove(other);
  }
  const std::string compare = world.add("photos/a_compare.png");
  world.check_refused(
      Words{"attention", a, compare, "--weights", world.weights()} + network + Words{"--output", world.path("photos")},
      taken + compare);
  world.check_refused(Words{"attention", a, "--raw", a, "--output", world.path("out0")} + network, taken + a);
  world.check_refused(Words{"attention", a, "--raw", world.weights(), "--output", world.path("out0")} + network, taken);
  const std::string first = world.add("photos/00_a_pca.png"), sheet = world.add("photos/pca_sheet.png");
  for (const std::string& other : {first, sheet})
    world.check_refused(Words{"pca", a, other} + network + Words{"--output", world.path("photos")}, taken + other);

  // Frames among frames, by any name of the folder.
  world.add("frames/frame_000001.png");
  world.add("frames/frame_000002.png");
  fs::create_directory_symlink(world.path("frames"), world.path("frames_too"));
  for (const char* out : {"frames", "frames_too", "frames/../frames"}) {
    world.check_refused(Words{"video", world.path("frames"), "--output", world.path(out)} + network,
                        "frames would be written among those that are read");
  }

  const std::string list = world.write("list.csv", "images/class0/0.png\nimages/class1/1.png\n");
  const Words features{"features", list, "--weights", world.weights(), "--out"};
  world.check_refused(features + Words{list}, taken + list);
  world.check_refused(features + Words{world.path("list.npy")}, taken + list);  // whose names go beside it
  world.check_refused(features + Words{world.weights()}, taken + world.weights());
  fs::create_directory(world.path("out"));
  const std::string known = world.path("out/f.safetensors"), query = images + "/class0/0.png";
  world.run_within("out", features + Words{known});
  for (const std::string& out : {query, known, world.weights(), images + "/class1/1.png"}) {
    world.check_refused({"search", query, "--features", known, "--output", out}, taken);
    if (out != world.weights()) world.check_refused({"dedupe", "--features", known, "--sheet", out}, taken);
  }
  for (const char* log : {"log.jsonl", "last.safetensors", "config.toml"})
    world.check_refused({"report", world.path("run"), "--out", world.path(std::string("run/") + log)}, taken);

  // Of the weights that are taken where none are named, too, and of those of a folder.
  fs::create_directories(world.path("work/runs/mine"));
  fs::copy_file(world.weights(), world.path("work/runs/mine/last.safetensors"));
  const std::string newest = "runs/mine/last.safetensors";
  world.check_refused({"features", images, "--out", newest}, taken + newest);
  world.check_refused({"attention", a, "--image-size", "16", "--raw", newest, "--output", world.path("out")},
                      taken + newest);
  world.check_refused({"convert", world.weights(), world.weights(), "--to", "timm", "--force"}, taken);
  const std::string folder = world.path("out/vit");
  world.run_within("out", {"convert", world.weights(), folder, "--to", "hf"});
  world.check_refused({"convert", folder, folder, "--to", "hf", "--force"}, taken);
  world.run_within("out", {"convert", world.weights(), folder, "--to", "hf", "--force"});
}

TEST_CASE("A picture and numbers do not take the place of what is called like neither") {
  World world;
  const std::string image = world.path("images/class0/0.png"), known = world.path("known/f.safetensors");
  fs::create_directory(world.path("known"));
  world.run_within("known", {"features", world.path("images"), "--weights", world.weights(), "--out", known});
  const std::string notes = world.write("notes.toml", "epochs = 3");
  world.check_refused({"search", image, "--features", known, "--output", notes}, "expected NAME.png");
  world.check_refused({"dedupe", "--features", known, "--sheet", notes}, "expected NAME.png");
  world.check_refused({"attention", image, "--weights", world.weights(), "--raw", notes, "--output", world.path("out")},
                      "expected NAME.safetensors");
  fs::create_directory(world.path("out"));
  world.run_within("out", {"search", image, "--features", known, "--output", world.path("out/A.PNG")});
}

TEST_CASE("A link that stands in the place of a result is replaced, not followed") {
  World world;
  const std::string precious = world.write("precious.png", "precious"), image = world.path("images/class0/0.png");
  fs::create_directory(world.path("out"));
  for (const char* name : {"0_sheet.png", "0_mean.png", "pca_sheet.png", "00_0_pca.png", "frame_000001.png", "f.csv"})
    fs::create_symlink(precious, world.path(std::string("out/") + name));
  const Words network{"--weights", world.weights(), "--image-size", "16", "--output", world.path("out")};
  world.run_within("out", Words{"attention", image} + network);
  world.run_within("out", {"pca", image, world.path("images/class1/1.png"), "--weights", world.weights(),
                           "--image-size", "64", "--output", world.path("out")});
  world.run_within("out", Words{"video", world.path("images/class0")} + network);
  world.run_within("out",
                   {"features", world.path("images"), "--weights", world.weights(), "--out", world.path("out/f.csv")});
  for (const auto& entry : fs::directory_iterator(world.path("out"))) CHECK_FALSE(entry.is_symlink());
  CHECK(read_text_file(precious) == "precious");
}
