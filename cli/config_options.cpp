#include "cli/config_options.h"

#include <fmt/format.h>

namespace dino {

void add_config_options(CLI::App& command, const std::shared_ptr<ConfigOverrides>& overrides) {
  for (const ConfigKey& key : config_keys()) {
    const std::string name(key.name);
    const auto set = [overrides, name](const CLI::results_t& words) {
      overrides->emplace_back(name, fmt::format("{}", fmt::join(words, " ")));
      return true;
    };
    CLI::Option* option =
        command.add_option("--" + name, set, fmt::format("{} (default: {})", key.comment, key.default_value));
    option->group(std::string(key.section))->type_name(key.is_list ? "LIST" : "VALUE")->type_size(1);
    key.is_list ? option->expected(1, 16) : option->expected(1);
  }
}

TrainConfig effective_config(const std::string& path, const ConfigOverrides& overrides) {
  TrainConfig config = path.empty() ? TrainConfig() : read_config(path);
  for (const auto& [key, value] : overrides) override_config(config, key, value);
  check_config(config);
  return config;
}

void refuse_extras(const CLI::App& command, std::initializer_list<std::string_view> others) {
  for (const std::string& word : command.remaining()) {
    if (!word.starts_with("--")) throw CLI::ValidationError(word, "unexpected argument");
    std::vector<std::string_view> names(others);
    const std::vector<ConfigKey> keys = config_keys();
    for (const ConfigKey& key : keys) names.push_back(key.name);
    const std::string name = word.substr(2, word.find('=') - 2);
    throw CLI::ValidationError("--" + name, fmt::format("unknown option; try --{}", nearest_name(name, names)));
  }
}

}  // namespace dino
