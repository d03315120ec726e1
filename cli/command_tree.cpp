#include "cli/command_tree.h"

#include "train/config.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <sstream>

namespace dino {
namespace {

/// Splits a description as the commands write it: text, then examples that begin with two spaces.
void read_description(const std::string& text, CommandEntry& entry) {
  std::stringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("  ")) {
      entry.examples.push_back(line.substr(2));
    } else if (!line.empty()) {
      // The line breaks of the help are not those of other forms.
      entry.description += (entry.description.empty() ? "" : " ") + line;
    }
  }
}

std::vector<std::string> choices_of(const std::string& type_name) {
  const std::size_t begin = type_name.find('{'), end = type_name.find('}');
  std::vector<std::string> choices;
  if (begin == std::string::npos || end == std::string::npos) return choices;
  std::stringstream words(type_name.substr(begin + 1, end - begin - 1));
  for (std::string word; std::getline(words, word, ',');) choices.push_back(word);
  return choices;
}

ArgumentKind kind_of(const std::string& type_name, bool takes_value, const std::vector<std::string>& choices) {
  if (!takes_value) return ArgumentKind::none;
  if (!choices.empty()) return ArgumentKind::choice;
  if (type_name == "DEVICE") return ArgumentKind::device;
  if (type_name == "DIR") return ArgumentKind::folder;
  for (const char* name : {"FILE", "IMAGE", "RUN", "IN", "OUT", "FILE|DIR", "FILE|URL"}) {
    if (type_name == name) return ArgumentKind::file;
  }
  return ArgumentKind::text;
}

OptionEntry read_option(const CLI::Option& option) {
  OptionEntry entry;
  for (const std::string& name : option.get_lnames()) entry.names.push_back("--" + name);
  for (const std::string& name : option.get_snames()) entry.names.push_back("-" + name);
  const bool takes_value = option.get_items_expected_max() > 0;
  entry.description = option.get_description();
  entry.default_value = option.get_default_str();
  entry.required = option.get_required();
  entry.many = option.get_items_expected_max() > 1;
  if (takes_value) {
    std::string type = option.get_type_name();
    entry.choices = choices_of(type);
    // Behind a colon CLI11 says what it checks.
    type = type.substr(0, type.find(entry.choices.empty() ? ':' : '{'));
    entry.kind = kind_of(type, takes_value, entry.choices);
    if (entry.kind == ArgumentKind::choice) {
      entry.value_name = "{";
      for (const std::string& choice : entry.choices)
        entry.value_name += (entry.value_name.size() > 1 ? "," : "") + choice;
      entry.value_name += "}";
    } else {
      entry.value_name = type;
    }
  }
  const std::vector<ConfigKey> keys = config_keys();
  const bool is_key =
      std::any_of(keys.begin(), keys.end(), [&](const ConfigKey& key) { return key.section == option.get_group(); });
  if (is_key) entry.section = option.get_group();
  return entry;
}

void collect(const CLI::App& app, const std::string& path, std::vector<CommandEntry>& tree) {
  CommandEntry entry;
  entry.path = path;
  read_description(app.get_description(), entry);
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_group().empty()) continue;  // hidden
    (option->get_positional() ? entry.arguments : entry.options).push_back(read_option(*option));
    if (option->get_positional()) entry.arguments.back().names = {};
  }
  const auto commands = app.get_subcommands([](const CLI::App*) { return true; });
  for (const CLI::App* command : commands) entry.commands.push_back(command->get_name());
  tree.push_back(std::move(entry));
  for (const CLI::App* command : commands)
    collect(*command, path + (path.empty() ? "" : " ") + command->get_name(), tree);
}

}  // namespace

std::string CommandEntry::summary() const {
  for (std::size_t i = 0; i < description.size(); ++i) {
    const bool ends = description[i] == '.' || description[i] == ':';
    if (ends && (i + 1 == description.size() || description[i + 1] == ' ')) return description.substr(0, i);
  }
  return description;
}

std::string summary_of(const std::string& description) {
  CommandEntry entry;
  read_description(description, entry);
  return entry.summary();
}

std::vector<CommandEntry> command_tree(Command program) {
  std::vector<CommandEntry> tree;
  collect(program.app(), "", tree);
  return tree;
}

}  // namespace dino
