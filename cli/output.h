#pragma once

#include "cli/command.h"
#include "engine/terminal.h"
#include "engine/text.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace dino {

// What a command says, and where: results go to standard output, as text or (--json) as one JSON document; messages and
// progress go to standard error, and --quiet leaves them out; errors always go there.

/// Adds --json, in the same words for every command that has a result.
void add_json_option(Command command, bool& json);

/// Adds --quiet to every command of the tree that does something itself.
void add_quiet_options(Command app);

/// Throws Error where `written`, a file that a command is about to write, is one of those that it reads: a result never
/// takes the place of what it is made from. By whatever name; files that do not exist are passed over.
void require_not_read(const char* where, const std::filesystem::path& written, const std::vector<std::string>& read);

/// Throws Error unless `written` ends with `extension` (`.png`), in any case: it replaces whatever has its name, so
/// that a slip must not name something else.
void require_extension(const char* where, const std::filesystem::path& written, const std::string& extension);

/// One JSON document.
void print_json(const nlohmann::ordered_json& document);

/// A line for the person at the terminal, who may not want it.
template <typename... Args>
void say(fmt::format_string<Args...> format, Args&&... args) {
  // Nothing depends on anyone who reads.
  if (!is_quiet())
    std::fputs((printable_lines(fmt::format(format, std::forward<Args>(args)...)) + "\n").c_str(), stderr);
}

/// A line about what a command has written: on standard output, and with --quiet nowhere.
template <typename... Args>
void report(fmt::format_string<Args...> format, Args&&... args) {
  if (!is_quiet()) fmt::print("{}\n", printable_lines(fmt::format(format, std::forward<Args>(args)...)));
}

}  // namespace dino
