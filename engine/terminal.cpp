#include "engine/terminal.h"

#include <unistd.h>

#include <atomic>
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

}  // namespace dino
