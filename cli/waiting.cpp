#include "cli/waiting.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

namespace dino {
namespace {

/// Half a millisecond: longer than threads of a step wait for each other where nothing else runs.
constexpr const char* kTurns = "10000";

}  // namespace

void wait_without_long_spins(char** arguments) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  std::error_code error;
  // The name itself, as lists of processes show it; /proc/self/exe would be called exe.
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  // Called by way of the dynamic loader (`ld.so ./dino_cuda`), it is the loader that would be started again.
  if (error || program.filename().string().starts_with("ld")) return;
  if (setenv("GOMP_SPINCOUNT", kTurns, 0) != 0) return;
  execv(program.c_str(), arguments);
}

}  // namespace dino
