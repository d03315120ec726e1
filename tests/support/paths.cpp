#include "tests/support/paths.h"

#include <cstdlib>

namespace dino::test {

// Known to this file alone: other objects do not depend on where the project lies, and a compiler cache can share them.
std::filesystem::path golden_dir() {
  const char* given = std::getenv("DINO_GOLDEN_DIR");
  return given != nullptr && *given != '\0' ? given : DINO_DEFAULT_GOLDEN_DIR;
}
std::filesystem::path config_dir() { return DINO_CONFIG_DIR; }
std::filesystem::path program_path() { return DINO_PROGRAM; }

}  // namespace dino::test
