#include "engine/progress.h"

#include "engine/files.h"
#include "engine/text.h"
#include "tests/support/catch.h"
#include "tests/support/temporary_folder.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>

using namespace dino;

namespace {

/// A terminal of so many columns, and what is written to it.
class Terminal {
 public:
  explicit Terminal(unsigned short columns) : ours_(posix_openpt(O_RDWR | O_NOCTTY)) {
    setenv("TERM", "xterm", 1);
    unsetenv("COLUMNS");
    REQUIRE((ours_ >= 0 && grantpt(ours_) == 0 && unlockpt(ours_) == 0));
    file_ = std::fopen(ptsname(ours_), "w");
    REQUIRE(file_ != nullptr);
    winsize size{};
    size.ws_col = columns;
    REQUIRE(ioctl(fileno(file_), TIOCSWINSZ, &size) == 0);
  }
  ~Terminal() {
    std::fclose(file_);
    close(ours_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  std::FILE* file() const { return file_; }
  std::string written() const {
    std::string text(4096, '\0');
    const ssize_t size = read(ours_, text.data(), text.size());
    text.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
    return text;
  }

 private:
  int ours_;
  std::FILE* file_ = nullptr;
};

}  // namespace

TEST_CASE("The time that is left follows the pace of the last half minute") {
  RemainingTime remaining;
  CHECK(remaining.left_s(100) == 0);
  remaining.note(0, 0);
  CHECK(remaining.left_s(100) == 0);
  remaining.note(10, 1);  // a slow start
  CHECK(remaining.left_s(101) == Approx(1000));
  std::int64_t done = 1;
  double now_s = 10;
  for (; now_s < 60; now_s += 0.05) remaining.note(now_s, done++);
  // Twenty a second; the slow start is forgotten.
  CHECK(remaining.left_s(done + 1000) == Approx(50).epsilon(0.01));
  // A pause is seen, and forgotten as well.
  now_s += 30;
  remaining.note(now_s, done);
  CHECK(remaining.left_s(done + 1000) > 60);
  for (const double end_s = now_s + 40; now_s < end_s; now_s += 0.05) remaining.note(now_s, done++);
  CHECK(remaining.left_s(done + 1000) == Approx(50).epsilon(0.01));
}

TEST_CASE("What comes before the first thing that is counted says nothing about the time that is left") {
  RemainingTime remaining;
  remaining.note(0, 7);
  remaining.note(100, 7);  // an evaluation, before the first step
  CHECK(remaining.left_s(17) == 0);
  remaining.note(101, 8);
  CHECK(remaining.left_s(18) == Approx(10));
}

TEST_CASE("Durations read as clocks do") {
  CHECK(format_duration(0) == "0:00");
  CHECK(format_duration(59.6) == "1:00");
  CHECK(format_duration(3723) == "1:02:03");
  CHECK(format_duration(-1) == "0:00");
}

TEST_CASE("Progress that does not go to a terminal is plain lines: the first, some between, and the last") {
  const test::TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "log";
  std::FILE* file = std::fopen(path.c_str(), "w");
  REQUIRE(file != nullptr);
  {
    Progress progress("step", 1000, 10, file);
    progress.update(10, "| nothing yet");
    for (int i = 11; i <= 1000; ++i) {
      progress.update(i, "| some");
      if (i == 500) progress.message("a message");
    }
  }
  std::fclose(file);
  const std::string text = read_text_file(path);
  INFO(text);
  CHECK(text.starts_with("step 11/1000 | some | "));
  CHECK(text.find("\na message\nstep 1000/1000 | some | ") != std::string::npos);
  CHECK(text.ends_with("| 0:00 left\n"));
  CHECK(text.find("nothing yet") == std::string::npos);
  CHECK(text.find('\r') == std::string::npos);
}

TEST_CASE("A bar is cut where the terminal ends, between two characters") {
  // The last column stays free. Bar and blank take 19 columns, each of the letters two.
  const std::string bar = "\r\033[K[................] ";
  for (const auto& [columns, title] :
       {std::pair{30, "日本語日本"}, std::pair{31, "日本語日本"}, std::pair{32, "日本語日本語"}}) {
    const Terminal terminal(static_cast<unsigned short>(columns));
    Progress progress("日本語日本語日本語", 100, 0, terminal.file());
    progress.update(0);
    CHECK(terminal.written() == bar + title);
  }
  const Terminal terminal(29);
  Progress progress("Mu\xcc\x88ller steuert \x1b[2J nichts\n", 100, 0, terminal.file());
  progress.update(0);
  CHECK(terminal.written() == bar + "Mu\xcc\x88ller st");
  progress.message("M\xfcller\x1b[2J\nzwei");
  CHECK(terminal.written() == "\r\033[KM\\xfcller\\x1b[2J\r\nzwei\r\n");
}
