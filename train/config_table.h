#pragma once

#include "train/config.h"

#include <limits>
#include <span>
#include <variant>

namespace dino {

/// Where a key's value lives in the configuration.
using ConfigMember =
    std::variant<int TrainConfig::*, double TrainConfig::*, bool TrainConfig::*, std::string TrainConfig::*,
                 std::array<double, 2> TrainConfig::*, std::vector<int> TrainConfig::*>;

/// Which values a key takes: an interval for numbers, `a|b|c` for text (any text when empty).
struct ConfigRange {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool above_low = false;  // low itself is excluded
  std::string_view choices = {};
};

struct ConfigField {
  std::string_view section;
  std::string_view name;
  ConfigMember member;
  ConfigRange range;
  std::string_view comment;
};

/// The one list of keys: reading, overriding, listing and writing all go by it.
std::span<const ConfigField> config_table();

}  // namespace dino
