// What all commands have in common: help with an example, --quiet, --json; and what is made of the tree of commands:
// completion and the manual page.
#include "data/png.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"
#include "tests/support/pictures.h"
#include "tests/support/program.h"
#include "tests/support/tiny_training.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <regex>
#include <set>
#include <sstream>

using namespace dino;
using namespace dino::test;

namespace {

std::vector<std::string> words_of(const std::string& line) {
  std::stringstream stream(line);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

std::string completion(const std::string& shell) {
  const Outcome outcome = run_program({"completion", shell});
  REQUIRE(outcome.status == 0);
  return outcome.output;
}

/// All commands, such as `eval` and `eval knn`, as the program itself names them.
std::set<std::string> all_commands() {
  const std::string script = completion("bash");
  std::set<std::string> commands;
  const std::regex pattern("command='([^']+)'");
  for (std::sregex_iterator at(script.begin(), script.end(), pattern), end; at != end; ++at) commands.insert((*at)[1]);
  return commands;
}

/// Those that do something themselves.
std::set<std::string> leaf_commands() {
  std::set<std::string> leaves;
  for (const std::string& command : all_commands()) {
    const bool is_group = command == "eval" || command == "data";
    if (!is_group) leaves.insert(command);
  }
  return leaves;
}

std::string help_of(const std::string& command) {
  std::vector<std::string> words = words_of(command);
  words.emplace_back("--help");
  const Outcome outcome = run_program(words);
  INFO(command);
  REQUIRE(outcome.status == 0);
  CHECK(outcome.errors.empty());
  return outcome.output;
}

/// What a command of another program prints.
std::string output_of(const std::string& command, int* status = nullptr) {
  std::FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string output;
  for (int c; (c = std::fgetc(pipe)) != EOF;) output += static_cast<char>(c);
  const int result = pclose(pipe);
  if (status != nullptr) *status = result;
  return output;
}

bool is_there(const std::string& program) {
  return std::system(("command -v " + program + " >/dev/null 2>&1").c_str()) == 0;
}

/// The lines that a command of another program prints.
std::set<std::string> lines_of(const std::string& command) {
  int status = 0;
  const std::string output = output_of(command, &status);
  INFO(output);
  CHECK(status == 0);
  std::set<std::string> lines;
  std::stringstream stream(output);
  for (std::string line; std::getline(stream, line);) {
    if (!line.empty()) lines.insert(line);
  }
  return lines;
}

/// What bash offers behind these words, the last of which is being typed.
std::set<std::string> offered(const TemporaryFolder& folder, const std::vector<std::string>& words) {
  folder.write("completion.bash", completion("bash"));
  std::string quoted;
  for (const std::string& word : words) quoted += " '" + word + "'";
  folder.write("ask.bash", fmt::format("cd '{}'\nsource completion.bash\nCOMP_WORDS=({})\nCOMP_CWORD={}\n_dino_cuda\n"
                                       "printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
                                       folder.path().string(), quoted, words.size() - 1));
  return lines_of("bash " + (folder.path() / "ask.bash").string() + " 2>&1");
}

/// Pictures, and a network that was trained on them.
class Scene {
 public:
  Scene() {
    for (int i = 0; i < 24; ++i) {
      Image picture;
      DrawnPictures(100).decode(i, picture);
      const std::vector<std::byte> bytes = encode_png(picture.rgb, picture.height, picture.width, 3);
      folder_.write(fmt::format("{}/class{}/{}.png", i < 16 ? "train" : "test", i % 2, i), bytes);
    }
    TrainConfig config = tiny_config();
    config.epochs = 1;
    config.data_path = path("train");
    config.output_dir = path("run");
    folder_.write("config.toml", write_config(config));
    const Outcome trained = run_program({"train", path("config.toml"), "--quiet"});
    INFO(trained.errors);
    REQUIRE(trained.status == 0);
    CHECK(trained.errors.empty());
    CHECK(trained.output.empty());
  }
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }

  /// A command line with its words' @ replaced by the folder.
  std::vector<std::string> words(const std::string& line) const {
    std::vector<std::string> words = words_of(line);
    for (std::string& word : words) {
      if (word.starts_with('@')) word = path(word.substr(1));
    }
    return words;
  }

 private:
  TemporaryFolder folder_;
};

}  // namespace

TEST_CASE("every command has help with an example, --quiet, and --json where it has a result") {
  const std::set<std::string> commands = all_commands();
  CHECK(commands.size() >= 20);
  const std::set<std::string> print_a_text{"completion", "man"};
  for (const std::string& command : commands) {
    INFO(command);
    const std::string help = help_of(command);
    CHECK(contains(help, "\n  dino_cuda " + command));
    if (!leaf_commands().contains(command)) continue;
    CHECK(contains(help, "--quiet"));
    if (!print_a_text.contains(command)) CHECK(contains(help, "--json"));
  }
  const std::string help = help_of("");
  for (const std::string& command : commands) {
    if (command.find(' ') == std::string::npos) CHECK(contains(help, "\n  " + command + " "));
  }
}

TEST_CASE("results are one JSON document, and with --quiet nothing else is said") {
  const Scene scene;
  struct Case {
    std::string line, key;  // a key of the document; empty for a list
  };
  const Case cases[] = {
      {"train @config.toml --output_dir @other", "loss"},
      {"train @config.toml --print_config", "data_path"},
      {"eval knn --weights @run/last.safetensors --train @train --test @test --k 3", "knn"},
      {"eval linear --weights @run/last.safetensors --train @train --test @test --epochs 1 --cached --batch 8", "best"},
      {"attention @train/class0/0.png --weights @run/last.safetensors --image-size 16 --output @drawn", "images"},
      {"pca @train/class0/0.png --weights @run/last.safetensors --image-size 32 --output @pca", "explained_variance"},
      {"video @train/class0 --weights @run/last.safetensors --image-size 16 --output @video", "frames"},
      {"features @train --weights @run/last.safetensors --out @features.safetensors", "files"},
      {"search @train/class0/0.png --features @features.safetensors --output @near.png", ""},
      {"dedupe --features @features.safetensors", "groups"},
      {"convert @run/last.safetensors @vit.pth --to official --verify", "feature_difference"},
      {"init @train --out @new.toml", "keys"},
      {"plan @config.toml", "largest_batch"},
      {"report @run --out @report.html", "bytes"},
      {"compare @run @run", "runs"},
      {"bench cast --images 1 --shape tiny --seconds 0 --repetitions 3", "results"},
      {"bench step --config @config.toml --batch 2 --steps 1 --warmup 0", "images_per_second"},
      {"selftest --device cpu --threads 1", "checks"},
  };
  for (const Case& c : cases) {
    std::vector<std::string> words = scene.words(c.line);
    words.emplace_back("--quiet");
    words.emplace_back("--json");
    const Outcome outcome = run_program(words);
    INFO(c.line << ": " << outcome.errors << outcome.output);
    REQUIRE(outcome.status == 0);
    CHECK(outcome.errors.empty());
    const auto json = nlohmann::json::parse(outcome.output, nullptr, false);
    CHECK_FALSE(json.is_discarded());
    if (c.key == "results") continue;
    if (c.key.empty()) {
      CHECK(json.is_array());
    } else {
      CHECK(json.contains(c.key));
    }
  }
  // Results in words stay; what only tells of written files does not.
  const auto run_quiet = [&](const std::string& line) {
    std::vector<std::string> words = scene.words(line);
    words.emplace_back("--quiet");
    const Outcome outcome = run_program(words);
    INFO(line << ": " << outcome.errors);
    CHECK(outcome.status == 0);
    CHECK(outcome.errors.empty());
    return outcome.output;
  };
  CHECK(contains(run_quiet("eval knn --weights @run/last.safetensors --train @train --test @test --k 3"), "top-1"));
  CHECK(run_quiet("features @train --weights @run/last.safetensors --out @f.npy").empty());
  CHECK(run_quiet("init @train --out @quiet.toml").empty());
  // Errors stay.
  const Outcome error = run_program({"features", scene.path("none"), "--weights", scene.path("run/last.safetensors"),
                                     "--out", scene.path("f.csv"), "--quiet"});
  CHECK(error.status == 1);
  CHECK(is_one_line_error(error.errors));
}

TEST_CASE("words in the wrong place are answered with the right one") {
  CHECK(run_program({"help"}).output == help_of(""));
  CHECK(run_program({"help", "eval", "knn"}).output == help_of("eval knn"));
  struct Case {
    std::vector<std::string> words;
    std::string answer;
  };
  const Case cases[] = {
      {{"--quiet", "train"}, "dino_cuda: --quiet: options stand behind their command; try dino_cuda COMMAND --quiet\n"},
      {{"train", "--config", "my.toml"},
       "dino_cuda: --config: unknown option; try dino_cuda train config.toml, without it\n"},
      {{"train", "--batch", "4"}, "dino_cuda: --batch: unknown option; try --batch_size_per_gpu\n"},
      {{"rport", "run"}, "dino_cuda: rport: unknown command; try report\n"},
      {{"xyzzy", "run"}, "dino_cuda: xyzzy: unknown command; try --help\n"},
      // As in the official code, also where something else is missing.
      {{"eval_knn"}, "dino_cuda: eval_knn: unknown command; try eval knn\n"},
      {{"train", "--use_fp16", "true"}, "dino_cuda: --use_fp16: unknown option; try --precision\n"},
      {{"train", "--dist_url=env://"}, "dino_cuda: --dist_url: unknown option; try dino_cuda train --help\n"},
      {{"eval", "knn", "--pretrained_weights", "w"},
       "dino_cuda: --pretrained_weights: unknown option; try --weights\n"},
      {{"eval", "knn", "--checkpoint_key", "teacher"}, "dino_cuda: --checkpoint_key: unknown option; try --network\n"},
      {{"eval", "knn", "--nb_knn", "10", "20"}, "dino_cuda: --nb_knn: unknown option; try --k\n"},
  };
  for (const Case& c : cases) {
    const Outcome outcome = run_program(c.words);
    CHECK(outcome.status == 2);
    CHECK(outcome.errors == c.answer);
  }
  // A shell that names every picture of a folder.
  std::vector<std::string> words{"init"};
  for (int i = 0; i < 1000; ++i) words.push_back(fmt::format("photos/{}.jpg", i));
  const Outcome outcome = run_program(words);
  CHECK(outcome.status == 2);
  CHECK(outcome.errors.size() < 400);
  CHECK(is_one_line_error(outcome.errors));
}

TEST_CASE("options have hyphens or underscores, as one likes") {
  // Each is read, so that what is missing is the next thing that is said.
  for (const char* option : {"--image-size", "--image_size"}) {
    const Outcome outcome = run_program({"eval", "knn", option, "96", "--allow_unexpected"});
    CHECK(outcome.status == 2);
    CHECK(outcome.errors == "dino_cuda: --weights is required; try --help\n");
  }
  CHECK(run_program({"train", "--warmup-epochs=3", "--print-config", "--epochs", "4"}).status == 0);
}

TEST_CASE("the help of the program fits on a screen, with all commands") {
  const std::string help = help_of("");
  CHECK(std::count(help.begin(), help.end(), '\n') <= 48);
  std::stringstream lines(help);
  for (std::string line; std::getline(lines, line);) {
    INFO(line);
    CHECK(line.size() <= 130);
  }
  for (const std::string& command : all_commands()) {
    if (command.find(' ') == std::string::npos) CHECK(contains(help, "\n  " + command + " "));
  }
}

// LLVM's OpenMP, which the thread sanitizer needs, does not print it.
#if !defined(__SANITIZE_THREAD__)
TEST_CASE("threads that wait do not spin for long, unless the environment says how they wait") {
  const auto spins = [](std::vector<std::string> setting) {
    std::vector<std::string> launcher{
        "env", "-u", "OMP_WAIT_POLICY", "-u", "GOMP_SPINCOUNT", "OMP_DISPLAY_ENV=verbose"};
    launcher.insert(launcher.end(), setting.begin(), setting.end());
    const Outcome outcome = run_program({"--version"}, {.launcher = launcher});
    CHECK(outcome.status == 0);
    // The program may have started itself again: what it was in the end counts.
    const std::regex form("GOMP_SPINCOUNT = '([^']*)'");
    std::string last;
    for (std::sregex_iterator at(outcome.errors.begin(), outcome.errors.end(), form), end; at != end; ++at)
      last = (*at)[1];
    return last;
  };
  CHECK(spins({}) == "10000");
  CHECK(spins({"GOMP_SPINCOUNT=77"}) == "77");
  CHECK(spins({"OMP_WAIT_POLICY=passive"}) == "0");
}
#endif

TEST_CASE("bash completes commands, options, choices, keys of the configuration and names of files") {
  using Words = std::set<std::string>;
  const TemporaryFolder folder;
  folder.write("photos/a b.jpg", "");
  folder.write("phone.toml", "");
  const auto offers = [&](const std::vector<std::string>& words) { return offered(folder, words); };
  CHECK(offers({"dino_cuda", "tr"}) == Words{"train"});
  CHECK(offers({"dino_cuda", ""}).contains("selftest"));
  CHECK(offers({"dino_cuda", "eval", ""}) == Words{"knn", "linear", "scenes"});
  CHECK(offers({"dino_cuda", "eval", "knn", "--te"}) == Words{"--test", "--temperature"});
  CHECK(offers({"dino_cuda", "eval", "knn", "--network", "t"}) == Words{"teacher"});
  CHECK(offers({"dino_cuda", "eval", "knn", "--device", ""}) == Words{"auto", "cpu", "cuda"});
  CHECK(offers({"dino_cuda", "train", "--warmup_t"}) == Words{"--warmup_teacher_temp", "--warmup_teacher_temp_epochs"});
  CHECK(offers({"dino_cuda", "train", "--arch", ""}) == Words{"vit_tiny", "vit_small", "vit_base"});
  CHECK(offers({"dino_cuda", "train", "--arch", "="}) == Words{"vit_tiny", "vit_small", "vit_base"});
  CHECK(offers({"dino_cuda", "train", "--norm_last_layer", "=", "t"}) == Words{"true"});
  CHECK(offers({"dino_cuda", "train", "ph"}) == Words{"phone.toml", "photos"});
  CHECK(offers({"dino_cuda", "train", "--data_path", "ph"}) == Words{"phone.toml", "photos"});
  CHECK(offers({"dino_cuda", "attention", "photos/a"}) == Words{"photos/a b.jpg"});
  CHECK(offers({"dino_cuda", "train", "--epochs", "1"}).empty());
  CHECK(offers({"dino_cuda", "convert", "in", "out", "--to", "o"}) == Words{"official", "onnx"});
  CHECK(offers({"dino_cuda", "nonsense", "x"}).empty());
  // Every option that the help of a command shows.
  for (const std::string& command : leaf_commands()) {
    std::vector<std::string> words{"dino_cuda"};
    for (const std::string& word : words_of(command)) words.push_back(word);
    words.emplace_back("--");
    const Words options = offers(words);
    const std::string help = help_of(command);
    for (const std::string& option : options) CHECK(contains(help, option));
    CHECK(options.contains("--help"));
    CHECK(options.contains("--quiet"));
  }
}

namespace {

/// What zsh's own completion functions are given behind these words, the last of which is being typed. They are
/// replaced by ones that print it, as they answer a terminal only.
std::set<std::string> offered_by_zsh(const TemporaryFolder& folder, const std::vector<std::string>& words) {
  folder.write("_dino_cuda", completion("zsh"));
  std::string quoted;
  for (const std::string& word : words) quoted += " '" + word + "'";
  folder.write("ask.zsh", fmt::format(R"(words=({0}); CURRENT={1}
compdef() {{ announced=$1 }}
compset() {{ typed=${{words[CURRENT]#*=}} }}
keep() {{ for word in "$@"; do [[ $word == $typed* ]] && print -r -- $word; done }}
_describe() {{ keep "${{entries[@]%%:*}}" }}
compadd() {{ shift; keep "$@" }}
_files() {{ print files }}
_message() {{ print nothing }}
typed=${{words[CURRENT]}}
source {2} || exit 1
$announced
exit 0
)",
                                      quoted, words.size(), (folder.path() / "_dino_cuda").string()));
  return lines_of("zsh -f " + (folder.path() / "ask.zsh").string() + " 2>&1");
}

/// What fish offers behind this line.
std::set<std::string> offered_by_fish(const TemporaryFolder& folder, const std::string& line) {
  folder.write("dino_cuda.fish", completion("fish"));
  folder.write("ask.fish",
               fmt::format("cd '{}'\nsource dino_cuda.fish\ncomplete -C '{}' | string split -f 1 \\t\ntrue\n",
                           folder.path().string(), line));
  return lines_of("HOME=" + folder.path().string() + " fish --no-config " + (folder.path() / "ask.fish").string() +
                  " 2>&1");
}

}  // namespace

TEST_CASE("the scripts for zsh and fish have every key") {
  for (const std::string shell : {"zsh", "fish"}) {
    const std::string script = completion(shell);
    CHECK(contains(script, "warmup_teacher_temp"));
    CHECK(contains(script, "vit_small"));
    CHECK(contains(script, "dino_cuda"));
  }
}

TEST_CASE("zsh completes commands, options, choices and names of files") {
  if (!is_there("zsh")) {
    WARN("SKIPPED: zsh is not installed");
    return;
  }
  using Words = std::set<std::string>;
  const TemporaryFolder folder;
  const auto offers = [&](const std::vector<std::string>& words) { return offered_by_zsh(folder, words); };
  CHECK(offers({"dino_cuda", "tr"}) == Words{"train"});
  CHECK(offers({"dino_cuda", "eval", ""}) == Words{"knn", "linear", "scenes"});
  CHECK(offers({"dino_cuda", "eval", "knn", "--te"}) == Words{"--test", "--temperature"});
  CHECK(offers({"dino_cuda", "train", "--precision", ""}) == Words{"auto", "bf16", "fp32"});
  CHECK(offers({"dino_cuda", "train", "--precision=b"}) == Words{"bf16"});
  CHECK(offers({"dino_cuda", "train", "--data_path=ph"}) == Words{"files"});
  CHECK(offers({"dino_cuda", "train", "ph"}) == Words{"files"});
  CHECK(offers({"dino_cuda", "train", "--epochs", "1"}) == Words{"nothing"});
  CHECK(offers({"dino_cuda", "nonsense", "x"}).empty());
}

TEST_CASE("fish completes commands, options, choices and names of files") {
  if (!is_there("fish")) {
    WARN("SKIPPED: fish is not installed");
    return;
  }
  using Words = std::set<std::string>;
  const TemporaryFolder folder;
  folder.write("phone.toml", "");
  const auto offers = [&](const std::string& line) { return offered_by_fish(folder, line); };
  CHECK(offers("dino_cuda tr") == Words{"train"});
  CHECK(offers("dino_cuda eval ") == Words{"knn", "linear", "scenes"});
  CHECK(offers("dino_cuda eval knn --te") == Words{"--test", "--temperature"});
  CHECK(offers("dino_cuda train --precision ") == Words{"auto", "bf16", "fp32"});
  CHECK(offers("dino_cuda train --precision=b") == Words{"--precision=bf16"});
  CHECK(offers("dino_cuda train --data_path ph") == Words{"phone.toml"});
  CHECK(offers("dino_cuda train ph") == Words{"phone.toml"});
  CHECK(offers("dino_cuda train --epochs 1").empty());
}

TEST_CASE("the manual page has every command, option and key, and is sound") {
  const Outcome outcome = run_program({"man"});
  REQUIRE(outcome.status == 0);
  const std::string& page = outcome.output;
  CHECK(page.find("\n.SH COMMANDS\n") != std::string::npos);
  for (const std::string& command : all_commands()) CHECK(contains(page, "\n.SS " + command + "\n"));
  for (const ConfigKey& key : config_keys()) CHECK(contains(page, fmt::format("\\fB{}\\fR", key.name)));
  CHECK(std::all_of(page.begin(), page.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; }));
  const std::set<std::string> requests{".TH", ".SH", ".SS", ".TP", ".PP", ".EX", ".EE", ".\\\""};
  std::stringstream lines(page);
  for (std::string line; std::getline(lines, line);) {
    INFO(line);
    CHECK_FALSE(line.starts_with('\''));
    if (line.starts_with('.')) CHECK(requests.contains(line.substr(0, line.find(' '))));
  }
  if (!is_there("groff")) return;  // the lines above were checked
  const TemporaryFolder folder;
  const std::string file = folder.write("dino_cuda.1", page).string();
  CHECK(output_of("groff -man -ww -z " + file + " 2>&1").empty());
  CHECK(contains(output_of("groff -man -Tascii -P-cbou " + file + " 2>/dev/null"), "warmup_teacher_temp"));
}
