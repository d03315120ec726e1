#pragma once

#include "cli/command.h"
#include "train/config.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace dino {

/// Keys of the configuration as the command line gave them, in its order.
using ConfigOverrides = std::vector<std::pair<std::string, std::string>>;

/// Makes every key of the configuration an option of `command`, which adds to `overrides`.
void add_config_options(Command command, const std::shared_ptr<ConfigOverrides>& overrides);

/// The file's configuration (the defaults where `path` is empty) under the command line's keys. Throws Error.
TrainConfig effective_config(const std::string& path, const ConfigOverrides& overrides);

}  // namespace dino
