#pragma once

#include <filesystem>

namespace dino::test {

/// Folder of the golden recordings: DINO_GOLDEN_DIR, else the copy in the project.
std::filesystem::path golden_dir();
/// The project's folder of configurations.
std::filesystem::path config_dir();
/// The program, for tests that run it.
std::filesystem::path program_path();

}  // namespace dino::test
