#pragma once

#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"
#include "train/config.h"

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace dino::test {

/// Eight pictures in two classes, and a configuration of a tiny run on them for the program.
class TrainingScene {
 public:
  /// `set` changes the configuration.
  explicit TrainingScene(const std::function<void(TrainConfig&)>& set);

  const std::filesystem::path& folder() const { return folder_.path(); }
  /// The output folder of the run of this name.
  std::filesystem::path run(const std::string& name) const { return folder_.path() / name; }
  /// Begins the run, or goes on with it.
  std::vector<std::string> command(const std::string& name, bool resume = false) const;
  /// The same; goes on where there is a checkpoint.
  std::vector<std::string> next_command(const std::string& name) const;

 private:
  TemporaryFolder folder_;
  std::filesystem::path config_file_;
};

/// How many lines a file has; 0 where there is none.
std::ptrdiff_t lines_of(const std::filesystem::path& file);

/// The lines of a log without what depends on the machine's speed. Throws where one is not JSON.
std::vector<std::string> log_lines(const std::filesystem::path& file);

/// Does a comparison look at the best checkpoint and its score?
enum class Best { compared, left_out };

/// Every tensor and the position, bit for bit.
void check_same_checkpoint(const std::filesystem::path& got, const std::filesystem::path& expected,
                           Best best = Best::compared);

/// The last state and the logs.
void check_same_run(const std::filesystem::path& got, const std::filesystem::path& expected,
                    Best best = Best::compared);

/// The names of the files and folders in a folder and those within it, in order.
std::vector<std::string> files_in(const std::filesystem::path& folder);
/// Those of a run without the pictures of its film: a signal at the end of an epoch cuts that epoch's short.
std::vector<std::string> files_besides_film(const std::filesystem::path& run);

/// Waits until a running program has logged so many steps.
void await_steps(Program& program, const std::filesystem::path& run, std::ptrdiff_t steps);

}  // namespace dino::test
