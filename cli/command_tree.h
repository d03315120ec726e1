#pragma once

#include "cli/command.h"

#include <string>
#include <vector>

namespace dino {

/// What may stand behind an option, as far as a shell can help with it.
enum class ArgumentKind { none, text, choice, device, file, folder };

struct OptionEntry {
  std::vector<std::string> names;  // `--weights`; empty for a positional argument
  std::string value_name;          // `FILE`, `{teacher,student}`; empty for flags
  std::string description, default_value;
  std::string section;  // of a key of the configuration, else empty
  ArgumentKind kind = ArgumentKind::none;
  std::vector<std::string> choices;
  bool required = false;
  bool many = false;  // takes several values
};

/// A command as its help shows it.
struct CommandEntry {
  std::string path;         // `eval knn`; empty for the program itself
  std::string description;  // without examples
  std::vector<std::string> examples;
  std::vector<std::string> commands;  // names of its subcommands
  std::vector<OptionEntry> options, arguments;

  /// The first sentence of the description.
  std::string summary() const;
};

/// The first sentence of a description as the commands write it.
std::string summary_of(const std::string& description);

/// The program and all of its commands, each before its subcommands: what help, completion and the man page are made
/// of.
std::vector<CommandEntry> command_tree(Command program);

}  // namespace dino
