#pragma once

#include <cstdlib>
#include <filesystem>

namespace dino::test {

/// Folder of the golden recordings: DINO_GOLDEN_DIR, else the copy in the project.
inline std::filesystem::path golden_dir() {
  const char* given = std::getenv("DINO_GOLDEN_DIR");
  return given != nullptr && *given != '\0' ? given : DINO_DEFAULT_GOLDEN_DIR;
}

}  // namespace dino::test
