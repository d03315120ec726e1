#include "engine/terminal.h"

#include "engine/files.h"
#include "engine/progress.h"
#include "tests/support/catch.h"
#include "tests/support/temporary_folder.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <map>
#include <optional>
#include <string>

using namespace dino;

namespace {

/// Both ends of a terminal that nobody sits at.
class FakeTerminal {
 public:
  FakeTerminal() : master_(posix_openpt(O_RDWR | O_NOCTTY)) {
    REQUIRE(master_ >= 0);
    REQUIRE(grantpt(master_) == 0);
    REQUIRE(unlockpt(master_) == 0);
    out_ = fopen(ptsname(master_), "w");
    REQUIRE(out_ != nullptr);
  }
  ~FakeTerminal() {
    fclose(out_);
    close(master_);
  }
  FakeTerminal(const FakeTerminal&) = delete;
  FakeTerminal& operator=(const FakeTerminal&) = delete;

  std::FILE* out() const { return out_; }
  /// What was printed so far.
  std::string printed() const {
    std::fflush(out_);
    pollfd waiting{.fd = master_, .events = POLLIN, .revents = 0};
    if (poll(&waiting, 1, 2000) != 1) return {};
    std::string text(4096, '\0');
    const ssize_t count = read(master_, text.data(), text.size());
    text.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
    return text;
  }

 private:
  int master_;
  std::FILE* out_;
};

using Variables = std::map<std::string, std::string>;

/// Sets the variables that say something about colours, and puts back what was there.
class Environment {
 public:
  explicit Environment(const Variables& values) {
    for (const char* name : {"NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM", "COLUMNS"}) {
      const char* before = getenv(name);
      before_[name] = before == nullptr ? std::nullopt : std::optional<std::string>(before);
      const auto at = values.find(name);
      at == values.end() ? unsetenv(name) : setenv(name, at->second.c_str(), 1);
    }
  }
  ~Environment() {
    for (const auto& [name, value] : before_) value ? setenv(name.c_str(), value->c_str(), 1) : unsetenv(name.c_str());
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  std::map<std::string, std::optional<std::string>> before_;
};

}  // namespace

TEST_CASE("colours and live lines belong on terminals that are not told otherwise") {
  const FakeTerminal terminal;
  const test::TemporaryFolder folder;
  std::FILE* file = std::fopen((folder.path() / "log").c_str(), "w");
  REQUIRE(file != nullptr);
  struct Case {
    Variables variables;
    bool live, colored, colored_file;
  };
  const Case cases[] = {
      {{{"TERM", "xterm"}}, true, true, false},
      {{}, true, true, false},
      {{{"TERM", "dumb"}}, false, false, false},
      {{{"NO_COLOR", "1"}}, true, false, false},
      {{{"NO_COLOR", ""}}, true, true, false},  // counts as not set
      {{{"CLICOLOR", "0"}}, true, false, false},
      {{{"CLICOLOR", "1"}}, true, true, false},
      {{{"CLICOLOR_FORCE", "1"}}, true, true, true},
      {{{"CLICOLOR_FORCE", "0"}}, true, true, false},
      {{{"CLICOLOR_FORCE", "1"}, {"NO_COLOR", "1"}}, true, false, false},
  };
  for (const Case& c : cases) {
    for (const auto& [name, value] : c.variables) UNSCOPED_INFO(name << "=" << value);
    const Environment environment(c.variables);
    CHECK(is_live_terminal(terminal.out()) == c.live);
    CHECK(shows_colors(terminal.out()) == c.colored);
    CHECK_FALSE(is_live_terminal(file));
    CHECK(shows_colors(file) == c.colored_file);
  }
  std::fclose(file);
}

TEST_CASE("lines are as wide as COLUMNS says, or the terminal") {
  const FakeTerminal terminal;
  const winsize size{.ws_row = 24, .ws_col = 33, .ws_xpixel = 0, .ws_ypixel = 0};
  REQUIRE(ioctl(fileno(terminal.out()), TIOCSWINSZ, &size) == 0);
  const test::TemporaryFolder folder;
  std::FILE* file = std::fopen((folder.path() / "log").c_str(), "w");
  REQUIRE(file != nullptr);
  {
    const Environment environment(Variables{{"COLUMNS", "60"}});
    CHECK(terminal_columns(terminal.out()) == 60);
    CHECK(terminal_columns(file) == 60);
  }
  for (const char* useless : {"", "0", "-3", "many", "60x", "99999999999"}) {
    INFO(useless);
    const Environment environment(Variables{{"COLUMNS", useless}});
    CHECK(terminal_columns(terminal.out()) == 33);
    CHECK(terminal_columns(file) == 80);
  }
  const Environment environment(Variables{});
  CHECK(terminal_columns(terminal.out()) == 33);
  std::fclose(file);
}

TEST_CASE("a progress bar draws over itself on a terminal, is plain on a dumb one, and leaves for other output") {
  const FakeTerminal terminal;
  {
    const Environment environment(Variables{{"TERM", "xterm"}});
    Progress bar("step", 10, 0, terminal.out());
    bar.update(1);
    const std::string drawn = terminal.printed();
    CHECK(drawn.find("\r\033[K[#...............] step 1/10") != std::string::npos);
    CHECK(drawn.find('\n') == std::string::npos);
    bar.clear();
    CHECK(terminal.printed() == "\r\033[K");
    bar.update(2);
    CHECK(terminal.printed().find("step 2/10") != std::string::npos);
  }
  CHECK(terminal.printed().find('\n') != std::string::npos);
  const Environment environment(Variables{{"TERM", "dumb"}});
  Progress bar("step", 10, 0, terminal.out());
  bar.update(1);
  CHECK(terminal.printed().find('\033') == std::string::npos);
}

TEST_CASE("a quiet process shows no progress and no messages") {
  const test::TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "log";
  std::FILE* file = std::fopen(path.c_str(), "w");
  REQUIRE(file != nullptr);
  CHECK_FALSE(is_quiet());
  set_quiet(true);
  {
    Progress bar("step", 2, 0, file);
    bar.update(1);
    bar.message("a message");
    bar.update(2);
  }
  set_quiet(false);
  std::fclose(file);
  CHECK(read_text_file(path).empty());
}
