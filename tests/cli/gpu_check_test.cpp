// scripts/gpu_check.sh has minutes on a machine with a GPU: whatever a stage does, its table must come.
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"
#include "tests/support/temporary_folder.h"

#include <nlohmann/json.hpp>

#include <cstdlib>
#include <fstream>
#include <iterator>

namespace dino::test {
namespace {

namespace fs = std::filesystem;

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Check {
  int status = -1;
  std::string output;
};

/// The script on a machine where `program` is dino_cuda.
class Machine {
 public:
  explicit Machine(const std::string& program) {
    fs::create_directory(folder_.path() / "scripts");
    fs::copy(config_dir().parent_path() / "scripts" / "gpu_check.sh", folder_.path() / "scripts");
    const fs::path file = folder_.write("dino_cuda", "#!/bin/sh\ncase $1 in --version) exit 0 ;; esac\n" + program);
    fs::permissions(file, fs::perms::owner_all);
  }
  /// With a GPU, as far as the script sees: `tests` is device_test, and nvidia-smi knows a card.
  void add_gpu(const std::string& tests) const {
    const auto add = [&](const char* name, const std::string& text) {
      fs::permissions(folder_.write(name, "#!/bin/sh\n" + text), fs::perms::owner_all);
    };
    add("device_test", tests);
    add("nvidia-smi", "echo index, name, driver_version\necho '0, A card, 580.1'\n");
  }
  Check run(const std::string& options, bool rehearse = true) const {
    const std::string command =
        fmt::format("PATH='{}':\"$PATH\" DINO_GOLDEN_DIR='{}' '{}/scripts/gpu_check.sh' {} {} >'{}/output' 2>&1",
                    folder_.path().string(), golden_dir().string(), folder_.path().string(),
                    rehearse ? "--rehearse" : "", options, folder_.path().string());
    const int raw = std::system(command.c_str());
    return {WIFEXITED(raw) ? WEXITSTATUS(raw) : -1, text_of(folder_.path() / "output")};
  }
  std::string file(const std::string& name) const { return text_of(folder_.path() / name); }
  bool has(const std::string& name) const { return fs::exists(folder_.path() / name); }

 private:
  TemporaryFolder folder_;
};

constexpr const char* kReport = "echo '{\"images_per_second\": 12.5, \"peak_memory_bytes\": 1073741824}'\n";

TEST_CASE("a stage of gpu_check.sh that fails does not keep the others from running") {
  const Machine machine(fmt::format("case $1 in selftest) echo out of order; kill -SEGV $$ ;; esac\n{}", kReport));
  const Check check = machine.run("--only 'selftest|step_bf16'");
  CHECK(check.status == 1);
  CHECK(contains(check.output, "FAILED, status 139"));
  CHECK(contains(check.output, "12.5 images/s, 1.00 GiB at most"));
  CHECK(check.output.ends_with("FAILED\n"));
  CHECK(contains(machine.file("gpu_check/table.txt"), "step_bf16"));
  CHECK(machine.has("gpu_check.tar.gz"));
  CHECK(machine.run("--only step_bf16").status == 0);
}

TEST_CASE("a stage of gpu_check.sh that hangs and heeds no signal is ended with all that it has started") {
  // As a program does that waits for a GPU: the shell and its child go on after SIGTERM.
  const Machine machine("trap '' TERM\necho $$ >\"$(dirname \"$0\")/process\"\nsleep 100\nsleep 100\n");
  const Check check = machine.run("--seconds 7 --only 'selftest|step_bf16'");
  CHECK(check.status == 1);
  CHECK(contains(check.output, "FAILED, over "));
  CHECK(contains(check.output, "the time is over"));
  const int process = std::atoi(machine.file("process").c_str());
  REQUIRE(process > 0);
  // Gone, or nobody has taken note of its end.
  const std::string stat = text_of(fmt::format("/proc/{}/stat", process));
  CHECK((stat.empty() || stat.find(") Z") != std::string::npos));
}

TEST_CASE("gpu_check.sh leaves its results for programs to read") {
  const Machine machine(
      fmt::format("case $1 in selftest) printf 'a\\ttab, a \"quote\", a \\\\ and ×\\n'; exit 3 ;; esac\n{}", kReport));
  CHECK(machine.run("--only 'selftest|step_bf16'").status == 1);
  const auto json = nlohmann::json::parse(machine.file("gpu_check/results.json"));
  CHECK(json.at("rehearsal") == true);
  REQUIRE(json.at("rows").size() == 2);
  const auto& failed = json.at("rows")[0];
  CHECK(failed.at("stage") == "selftest");
  CHECK(failed.at("result") == "FAILED, status 3");
  CHECK(failed.at("detail") == "a tab, a \"quote\", a \\ and ×");
  CHECK_FALSE(failed.contains("images_per_second"));
  const auto& measured = json.at("rows")[1];
  CHECK(measured.at("result") == "passed");
  CHECK(measured.at("images_per_second") == 12.5);
  CHECK(measured.at("peak_memory_bytes") == 1073741824);
}

TEST_CASE("gpu_check.sh on a GPU names the card, and measures also where the tests cannot be listed") {
  const Machine machine(kReport);
  machine.add_gpu(
      "echo \"On A card, compute capability 9.0\"\n"
      "case $* in *--list-tags*) echo '   9  [#first_test]' ;; *) echo \"tests of $*\" ;; esac\n");
  CHECK(machine.run("--only 'step_bf16|first_test|device_test'", false).status == 0);
  auto json = nlohmann::json::parse(machine.file("gpu_check/results.json"));
  CHECK(json.at("device") == "A card, compute capability 9.0");
  CHECK(json.at("card") == "0, A card, 580.1");
  REQUIRE(json.at("rows").size() == 2);
  CHECK(json.at("rows")[0].at("stage") == "step_bf16");
  CHECK(json.at("rows")[1].at("detail") == "tests of -# -w NoTests [#first_test][device]");

  machine.add_gpu("echo it crashes\nkill -SEGV $$\n");
  CHECK(machine.run("--only 'step_bf16|first_test|device_test'", false).status == 1);
  json = nlohmann::json::parse(machine.file("gpu_check/results.json"));
  REQUIRE(json.at("rows").size() == 2);
  CHECK(json.at("rows")[0].at("images_per_second") == 12.5);
  CHECK(json.at("rows")[1].at("stage") == "device_test");
  CHECK(json.at("rows")[1].at("detail") == "it lists no tests, status 139");
}

TEST_CASE("gpu_check.sh refuses what it does not know") {
  const Machine machine(kReport);
  CHECK(machine.run("--fast").status == 2);
  CHECK(machine.run("--seconds soon").status == 2);
}

}  // namespace
}  // namespace dino::test
