// scripts/gpu_check.sh has minutes on a machine with a GPU: whatever a stage does, its table must come.
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"
#include "tests/support/temporary_folder.h"

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
  Check run(const std::string& options) const {
    const std::string command =
        fmt::format("DINO_GOLDEN_DIR='{}' '{}/scripts/gpu_check.sh' --rehearse {} >'{}/output' 2>&1",
                    golden_dir().string(), folder_.path().string(), options, folder_.path().string());
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

TEST_CASE("gpu_check.sh refuses what it does not know") {
  const Machine machine(kReport);
  CHECK(machine.run("--fast").status == 2);
  CHECK(machine.run("--seconds soon").status == 2);
}

}  // namespace
}  // namespace dino::test
