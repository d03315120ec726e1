#pragma once

#include "tests/support/temporary_folder.h"

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace dino::test {

/// In the environment of processes with Open MPI, which leaves memory behind: what the address sanitizer is told.
inline constexpr const char* kNoLeakCheck = "LSAN_OPTIONS=detect_leaks=0";

/// What a finished program left behind.
struct Outcome {
  int status = 0;  // of its exit; 128 + the signal that killed it
  std::string output, errors;
  std::int64_t peak_bytes = 0;  // the most memory that was resident at once
};

struct ProgramLimits {
  std::int64_t file_bytes = 0;     // no file may grow beyond it, as on a full disk; 0: no limit
  std::int64_t address_bytes = 0;  // `ulimit -v`: no more may be mapped; 0: no limit
  std::string output = {};         // file or device that takes the standard output instead of Outcome::output
  std::string errors = {};         // takes the standard error output instead of Outcome::errors
  std::string working_folder = {};
  std::vector<std::string> launcher = {};     // words in front of the program: `mpirun -n 2`
  std::vector<std::string> environment = {};  // NAME=value, beside what the test has
};

/// The dino_cuda program of this build with some arguments, running beside the test.
class Program {
 public:
  explicit Program(const std::vector<std::string>& arguments, const ProgramLimits& limits = {});
  /// Kills it if it still runs.
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  pid_t process() const { return process_; }
  /// Does nothing once is_running() or wait() has seen it end.
  void send(int signal) const;
  bool is_running();
  Outcome wait();

 private:
  /// Takes the status of a process that has ended; `options` as waitpid() has them.
  void reap(int options);

  TemporaryFolder folder_;  // of what it prints
  pid_t process_ = -1;
  int raw_status_ = 0;
  std::int64_t peak_bytes_ = 0;
};

inline Outcome run_program(const std::vector<std::string>& arguments, const ProgramLimits& limits = {}) {
  return Program(arguments, limits).wait();
}

/// Exactly one line that begins with the program's name.
bool is_one_line_error(const std::string& text);

}  // namespace dino::test
