#include "cli/words.h"

#include "train/names.h"

#include <CLI/CLI.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace dino {
namespace {

/// What commands are called elsewhere, with the official scripts first.
constexpr Synonym kCommands[] = {
    {"main_dino", "train"},
    {"eval_knn", "eval knn"},
    {"eval_linear", "eval linear"},
    {"knn", "eval knn"},
    {"linear", "eval linear"},
    {"visualize_attention", "attention"},
    {"visualize", "attention"},
    {"video_generation", "video"},
    {"evaluate", "eval"},
    {"test", "eval"},
    {"benchmark", "bench"},
    {"export", "convert"},
    {"extract", "features"},
    {"embed", "features"},
    {"download", "data get"},
    {"get", "data get"},
    {"scenes", "data scenes"},
    {"config", "init"},
    {"new", "init"},
    {"duplicates", "dedupe"},
    {"resume", "train"},
};

/// What options are called elsewhere, with the official scripts first. Those that a command does not have do not count.
constexpr Synonym kOptions[] = {
    {"pretrained_weights", "weights"},
    {"checkpoint_key", "network"},
    {"nb_knn", "k"},
    {"n_last_blocks", "blocks"},
    {"data_path", "train"},
    {"output_dir", "output"},
    {"output_dir", "out"},
    {"image_path", "image"},
    {"num_labels", "shots"},
    {"batch_size_per_gpu", "batch"},
    {"output_path", "output"},
    {"resize_to", "image-size"},
    {"model", "weights"},
    {"checkpoint", "weights"},
    {"which", "network"},
    {"output", "out"},
    {"out", "output"},
    {"gpu", "device"},
    {"format", "to"},
    {"learning_rate", "lr"},
    {"cmap", "colors"},
    {"colormap", "colors"},
    {"overwrite", "force"},
};

const CLI::App* command_named(const CLI::App& app, const std::string& name) {
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (command->get_name() == name) return command;
  }
  return nullptr;
}

/// The command that the first words name; `count` becomes how many do.
const CLI::App& command_of(const CLI::App& app, const std::vector<std::string>& words, std::size_t& count) {
  const CLI::App* command = &app;
  for (count = 0; count < words.size(); ++count) {
    const CLI::App* below = command_named(*command, words[count]);
    if (below == nullptr) break;
    command = below;
  }
  return *command;
}

/// `--image-size=96` without its value; empty for what is no long option.
std::string option_name(const std::string& word) {
  return word.starts_with("--") && word.size() > 2 ? word.substr(0, word.find('=')) : std::string();
}

bool has_option(const CLI::App& command, const std::string& name) {
  return command.get_option_no_throw(name) != nullptr;
}

/// All commands that can be called, `eval` and `eval knn` both.
std::vector<std::string> all_commands(const CLI::App& app, const std::string& path = "") {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(path + command->get_name());
    // One below another is as deep as they go.
    for (const CLI::App* below : command->get_subcommands([](const CLI::App*) { return true; }))
      names.push_back(names.back() + " " + below->get_name());
  }
  return names;
}

[[noreturn]] void refuse_command(const CLI::App& app, const std::string& word) {
  const std::vector<std::string> names = all_commands(app);
  const std::string_view meant =
      probable_name(word, std::vector<std::string_view>(names.begin(), names.end()), kCommands);
  refuse_word(word, meant.empty() ? "unknown command" : fmt::format("unknown command; try {}", meant));
}

[[noreturn]] void refuse_option(const CLI::App& command, const std::string& path, const std::string& option) {
  const std::string name = option.substr(2);
  if (name == "config" && has_option(command, "config")) {
    refuse_word(option, fmt::format("unknown option; try dino_cuda {} config.toml, without it", path));
  }
  std::vector<std::string_view> names;
  for (const CLI::Option* each : command.get_options()) {
    for (const std::string& known : each->get_lnames()) names.push_back(known);
  }
  const auto keys = synonyms_of_keys();
  std::vector<Synonym> synonyms(keys.begin(), keys.end());
  synonyms.insert(synonyms.end(), std::begin(kOptions), std::end(kOptions));
  const std::string_view meant = probable_name(name, names, synonyms);
  refuse_word(option, fmt::format("unknown option; try {}", meant.empty() ? fmt::format("dino_cuda {} --help", path)
                                                                          : fmt::format("--{}", meant)));
}

}  // namespace

std::vector<std::string> as_written_here(Command program, std::vector<std::string> words) {
  if (!words.empty() && words.front() == "help") {
    words.erase(words.begin());
    words.emplace_back("--help");
  }
  std::size_t first = 0;
  const CLI::App& command = command_of(program.app(), words, first);
  for (std::size_t i = first; i < words.size() && words[i] != "--"; ++i) {
    const std::string name = option_name(words[i]);
    if (name.empty() || has_option(command, name)) continue;
    for (const auto& [from, to] : {std::pair('-', '_'), std::pair('_', '-')}) {
      std::string other = name;
      std::replace(other.begin() + 2, other.end(), from, to);
      if (has_option(command, other)) words[i].replace(0, name.size(), other);
    }
  }
  return words;
}

void refuse_unknown_words(Command program, const std::vector<std::string>& words) {
  const CLI::App& app = program.app();
  if (words.empty()) return;
  if (words.front().starts_with('-')) {
    const std::string option = words.front().substr(0, words.front().find('='));
    if (has_option(app, option)) return;
    refuse_word(option, fmt::format("options stand behind their command; try dino_cuda COMMAND {}", words.front()));
  }
  std::size_t first = 0;
  const CLI::App& command = command_of(app, words, first);
  if (first == 0) refuse_command(app, words.front());
  std::string path = words[0];
  for (std::size_t i = 1; i < first; ++i) path += " " + words[i];
  for (std::size_t i = first; i < words.size() && words[i] != "--"; ++i) {
    const std::string name = option_name(words[i]);
    if (!name.empty() && !has_option(command, name)) refuse_option(command, path, name);
  }
}

}  // namespace dino
