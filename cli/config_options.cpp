#include "cli/config_options.h"

#include "kernels/common/error.h"
#include "train/config_table.h"

#include <CLI/CLI.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <variant>

namespace dino {

namespace {

/// What stands behind a key in the help, and what shells complete it to.
std::string placeholder_of(const ConfigField& field) {
  if (!field.range.choices.empty()) {
    std::string choices(field.range.choices);
    std::replace(choices.begin(), choices.end(), '|', ',');
    return "{" + choices + "}";
  }
  if (std::holds_alternative<bool TrainConfig::*>(field.member)) return "{true,false}";
  if (field.name == "device") return "DEVICE";
  if (field.name == "init") return "FILE";
  if (field.name.ends_with("_path") || field.name.ends_with("_dir")) return "DIR";
  const bool is_list = std::holds_alternative<std::array<double, 2> TrainConfig::*>(field.member) ||
                       std::holds_alternative<std::vector<int> TrainConfig::*>(field.member);
  return is_list ? "LIST" : "VALUE";
}

}  // namespace

void add_config_options(Command command, const std::shared_ptr<ConfigOverrides>& overrides) {
  const auto table = config_table();
  const std::vector<ConfigKey> keys = config_keys();  // in the same order
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const ConfigKey& key = keys[i];
    const std::string name(key.name);
    const auto set = [overrides, name](const CLI::results_t& words) {
      overrides->emplace_back(name, fmt::format("{}", fmt::join(words, " ")));
      return true;
    };
    CLI::Option* option =
        command.app().add_option("--" + name, set, fmt::format("{} (default: {})", key.comment, key.default_value));
    option->group(std::string(key.section))->type_name(placeholder_of(table[i]))->type_size(1);
    key.is_list ? option->expected(1, 16) : option->expected(1);
  }
}

TrainConfig effective_config(const std::string& path, const ConfigOverrides& overrides) {
  TrainConfig config = path.empty() ? TrainConfig() : read_config(path);
  for (const auto& [key, value] : overrides) override_config(config, key, value);
  check_config(config);
  return config;
}

}  // namespace dino
