#include "tests/support/program.h"

#include "engine/files.h"
#include "tests/support/paths.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>

namespace dino::test {
namespace {

void redirect(const std::string& path, int descriptor) {
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file < 0 || dup2(file, descriptor) < 0) _exit(126);
  close(file);
}

}  // namespace

Program::Program(const std::vector<std::string>& arguments, const ProgramLimits& limits) {
  std::vector<std::string> words = limits.launcher;
  words.push_back(program_path().string());
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::vector<std::string> variables = limits.environment;
  std::vector<char*> environment;
  for (std::string& variable : variables) environment.push_back(variable.data());
  for (char** variable = environ; *variable != nullptr; ++variable) environment.push_back(*variable);
  environment.push_back(nullptr);
  const std::string output = limits.output.empty() ? (folder_.path() / "output").string() : limits.output;
  const std::string errors = limits.errors.empty() ? (folder_.path() / "errors").string() : limits.errors;
  process_ = fork();
  if (process_ < 0) throw std::runtime_error("cannot start a process");
  if (process_ > 0) return;
  // The child, in which nothing but system calls is safe.
  redirect(output, STDOUT_FILENO);
  redirect(errors, STDERR_FILENO);
  if (!limits.working_folder.empty() && chdir(limits.working_folder.c_str()) != 0) _exit(126);
  if (limits.file_bytes > 0) {
    const rlimit limit{static_cast<rlim_t>(limits.file_bytes), static_cast<rlim_t>(limits.file_bytes)};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(126);
  }
  if (limits.address_bytes > 0) {
    const rlimit limit{static_cast<rlim_t>(limits.address_bytes), static_cast<rlim_t>(limits.address_bytes)};
    if (setrlimit(RLIMIT_AS, &limit) != 0) _exit(126);
  }
  execvpe(argv[0], argv.data(), environment.data());
  _exit(127);
}

Program::~Program() {
  if (process_ < 0) return;
  send(SIGKILL);
  waitpid(process_, nullptr, 0);
}

void Program::send(int signal) const {
  if (process_ > 0) kill(process_, signal);  // kill(-1) would reach every process of the machine
}

void Program::reap(int options) {
  rusage usage{};
  if (process_ <= 0 || wait4(process_, &raw_status_, options, &usage) != process_) return;
  peak_bytes_ = std::int64_t{1024} * usage.ru_maxrss;
  process_ = -1;
}

bool Program::is_running() {
  reap(WNOHANG);
  return process_ > 0;
}

Outcome Program::wait() {
  reap(0);
  const auto text = [&](const char* name) {
    return std::filesystem::exists(folder_.path() / name) ? read_text_file(folder_.path() / name) : std::string();
  };
  return {WIFEXITED(raw_status_) ? WEXITSTATUS(raw_status_) : 128 + WTERMSIG(raw_status_), text("output"),
          text("errors"), peak_bytes_};
}

bool is_one_line_error(const std::string& text) {
  return text.starts_with("dino_cuda: ") && text.ends_with('\n') && std::count(text.begin(), text.end(), '\n') == 1;
}

}  // namespace dino::test
