#include "data/download.h"

#include "kernels/common/error.h"

#include <fcntl.h>
#include <md5.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string_view>
#include <thread>
#include <vector>

namespace dino {

namespace fs = std::filesystem;

namespace {

constexpr int kPoll_ms = 100;
constexpr int kAttempts = 5;  // after broken connections
constexpr std::size_t kMessageBytes = 4096;

std::int64_t size_of(const fs::path& file) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(file, error);
  return error ? 0 : static_cast<std::int64_t>(size);
}

/// The full path of a program, or nothing.
std::string find_program(std::string_view name) {
  const char* variable = std::getenv("PATH");
  std::string_view rest = variable == nullptr ? "/usr/bin:/bin" : variable;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(':'), rest.size());
    const fs::path candidate = fs::path(rest.substr(0, end)) / name;
    rest.remove_prefix(std::min(end + 1, rest.size()));
    std::error_code ignored;
    if (candidate.is_absolute() && fs::is_regular_file(candidate, ignored) && access(candidate.c_str(), X_OK) == 0) {
      return candidate.string();
    }
  }
  return {};
}

/// A program that runs beside this one and ends with it. Its standard error is collected.
class Child {
 public:
  explicit Child(const std::vector<std::string>& arguments) {
    // Everything that needs memory comes before the fork: other threads may hold the heap's locks.
    std::vector<char*> argv;
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    std::array<int, 2> ends{};
    const bool piped = pipe2(ends.data(), O_CLOEXEC) == 0;
    require(piped, "download", "cannot start {}: {}", arguments[0], std::strerror(errno));
    const pid_t parent = getpid();
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGTERM);
      const int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
      dup2(nothing, STDIN_FILENO);
      dup2(nothing, STDOUT_FILENO);
      dup2(ends[1], STDERR_FILENO);
      if (getppid() == parent) execv(argv[0], argv.data());
      _exit(127);
    }
    const int reason = errno;
    close(ends[1]);
    errors_ = ends[0];
    if (pid_ < 0) {
      close(errors_);
      fail("download", "cannot start {}: {}", arguments[0], std::strerror(reason));
    }
    fcntl(errors_, F_SETFL, O_NONBLOCK);
  }

  ~Child() {
    if (!ended_) {
      kill(pid_, SIGTERM);
      wait(0);
    }
    close(errors_);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// Waits a moment; true once the child has ended.
  bool ends_within(int milliseconds) {
    pollfd event{.fd = errors_, .events = POLLIN, .revents = 0};
    if (poll(&event, 1, milliseconds) > 0 && !read_errors()) {
      // The pipe is closed, so there is nothing to wake up for.
      std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds / 10));
    }
    if (!wait(WNOHANG)) return false;
    read_errors();
    return true;
  }

  /// The exit status; -1 after a signal.
  int status() const { return WIFEXITED(status_) ? WEXITSTATUS(status_) : -1; }

  /// The last line it wrote to its standard error.
  std::string message() const {
    const std::size_t end = message_.find_last_not_of(" \r\n") + 1;
    const std::size_t begin = message_.find_last_of('\n', end == 0 ? 0 : end - 1);
    const std::size_t first = begin == std::string::npos ? 0 : begin + 1;
    return first < end ? message_.substr(first, end - first) : "it did not say why";
  }

 private:
  bool wait(int flags) {
    pid_t done = 0;
    do {
      done = waitpid(pid_, &status_, flags);
    } while (done < 0 && errno == EINTR);
    ended_ = ended_ || done != 0;
    return ended_;
  }

  /// False at the end of the pipe.
  bool read_errors() {
    std::array<char, 512> buffer{};
    ssize_t bytes = 0;
    while ((bytes = read(errors_, buffer.data(), buffer.size())) > 0) {
      message_.append(buffer.data(), static_cast<std::size_t>(bytes));
      if (message_.size() > kMessageBytes) message_.erase(0, message_.size() - kMessageBytes);
    }
    return bytes < 0;
  }

  pid_t pid_ = -1;
  int errors_ = -1;
  int status_ = 0;
  bool ended_ = false;
  std::string message_;
};

/// The command that continues `file`. No shell sees it.
std::vector<std::string> command_for(const std::string& url, const fs::path& file) {
  if (const std::string curl = find_program("curl"); !curl.empty()) {
    return {curl,
            "--fail",
            "--silent",
            "--show-error",
            "--location",
            "--proto",
            "=http,https,file",
            "--proto-redir",
            "=http,https",
            "--connect-timeout",
            "30",
            "--speed-limit",
            "1",
            "--speed-time",
            "60",
            "--continue-at",
            "-",
            "--output",
            file.string(),
            "--url",
            url};
  }
  if (const std::string wget = find_program("wget"); !wget.empty() && !url.starts_with("file:")) {
    return {wget,           "--no-verbose",      "--continue",  "--tries=5", "--waitretry=10",
            "--timeout=60", "--output-document", file.string(), "--",        url};
  }
  fail("download",
       "there is no curl or wget to fetch {}; try apt-get install curl, or fetch it yourself and pass "
       "--from FILE",
       url);
}

}  // namespace

bool is_url(const std::string& text) {
  return text.starts_with("http://") || text.starts_with("https://") || text.starts_with("file://");
}

void download(const std::string& url, const fs::path& file, std::int64_t total_bytes, const ByteProgress& progress) {
  require(is_url(url), "download", "cannot fetch {}; expected http://, https:// or file://", url);
  const auto report = [&] {
    if (progress) progress(size_of(file), total_bytes);
  };
  // curl's exit statuses: a connection that broke or timed out, and servers (22 with HTTP 416) that cannot continue.
  const auto is_broken = [](int status) {
    return status == 18 || status == 28 || status == 52 || status == 55 || status == 56 || status == 92;
  };
  bool started_anew = false;
  for (int attempt = 1; total_bytes == 0 || size_of(file) != total_bytes; ++attempt) {
    const std::int64_t had_bytes = size_of(file);
    const std::vector<std::string> command = command_for(url, file);
    Child child(command);
    do {
      report();
    } while (!child.ends_within(kPoll_ms));
    report();
    if (child.status() == 0) return;
    const bool is_curl = fs::path(command[0]).filename() == "curl";
    const bool cannot_continue =
        child.status() == 33 || child.status() == 36 || child.message().find(" 416") != std::string::npos;
    if (is_curl && had_bytes > 0 && cannot_continue && !started_anew) {
      started_anew = true;
      fs::remove(file);
      continue;
    }
    if (size_of(file) > had_bytes) attempt = 1;  // it gets on, so it may go on
    if (!is_curl || !is_broken(child.status()) || attempt >= kAttempts) {
      fail("download",
           "cannot fetch {}: {}; try again, which continues where it stopped, or fetch it yourself and pass "
           "--from FILE",
           url, child.message());
    }
    for (int waited_ms = 0; waited_ms < 1000 << (attempt - 1); waited_ms += kPoll_ms) {
      std::this_thread::sleep_for(std::chrono::milliseconds(kPoll_ms));
      report();
    }
  }
  report();
}

std::string md5_of_file(const fs::path& file, const ByteProgress& progress) {
  std::ifstream in(file, std::ios::binary);
  require(in.good(), "download", "cannot read {}: {}", file.string(), std::strerror(errno));
  const std::int64_t total = size_of(file);
  std::int64_t done = 0;
  std::vector<char> buffer(std::size_t{1} << 20);
  MD5_CTX context{};
  MD5Init(&context);
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || in.gcount() > 0) {
    MD5Update(&context, reinterpret_cast<const std::uint8_t*>(buffer.data()), static_cast<std::size_t>(in.gcount()));
    done += in.gcount();
    if (progress) progress(done, total);
  }
  require(!in.bad(), "download", "cannot read {}: {}", file.string(), std::strerror(errno));
  std::array<std::uint8_t, MD5_DIGEST_LENGTH> digest{};
  MD5Final(digest.data(), &context);
  std::string text;
  for (const std::uint8_t byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

}  // namespace dino
