#include "engine/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <cstdlib>
#include <string_view>

namespace dino {
namespace {

std::atomic<bool> quiet_process{false};

std::string_view variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view() : value;
}

}  // namespace

bool is_quiet() { return quiet_process; }
void set_quiet(bool quiet) { quiet_process = quiet; }

bool is_live_terminal(std::FILE* out) { return isatty(fileno(out)) != 0 && variable("TERM") != "dumb"; }

bool shows_colors(std::FILE* out) {
  if (!variable("NO_COLOR").empty()) return false;
  const std::string_view force = variable("CLICOLOR_FORCE");
  if (!force.empty() && force != "0") return true;
  return is_live_terminal(out) && variable("CLICOLOR") != "0";
}

int terminal_columns(std::FILE* out) {
  const std::string_view wanted = variable("COLUMNS");
  const char* const end = wanted.data() + wanted.size();
  int columns = 0;
  const auto [at, error] = std::from_chars(wanted.data(), end, columns);
  if (!wanted.empty() && error == std::errc() && at == end && columns >= 1 && columns <= 10'000) return columns;
  winsize size{};
  return ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace dino
