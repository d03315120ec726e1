#include "train/config.h"

#include "engine/device_choice.h"
#include "engine/files.h"
#include "engine/text.h"
#include "kernels/common/error.h"
#include "train/config_table.h"
#include "train/names.h"

#include <fmt/ranges.h>

#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

namespace dino {
namespace {

constexpr std::size_t kMaxBytes = std::size_t{1} << 20;  // of a file of configuration

template <typename... Functions>
struct Overloaded : Functions... {
  using Functions::operator()...;
};
template <typename... Functions>
Overloaded(Functions...) -> Overloaded<Functions...>;  // which clang 14 does not deduce by itself

const ConfigField* find_field(std::string_view name) {
  const auto table = config_table();
  const auto at =
      std::find_if(table.begin(), table.end(), [&](const ConfigField& field) { return field.name == name; });
  return at == table.end() ? nullptr : &*at;
}

/// What to try instead of a key that is none; `dashes` stand before keys.
std::string instead_of_key(std::string_view name, std::string_view dashes = "") {
  std::vector<std::string_view> names;
  for (const ConfigField& field : config_table()) names.push_back(field.name);
  const std::string_view meant = probable_name(name, names, synonyms_of_keys());
  return meant.empty() ? "`dino_cuda train --print_config`, which shows all" : fmt::format("{}{}", dashes, meant);
}

std::string number_to_toml(double value) {
  const std::string text = fmt::format("{}", value);
  return text.find_first_of(".ein") == std::string::npos ? text + ".0" : text;
}

std::string text_to_toml(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      result += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      result += c;
    }
  }
  return result + '"';
}

std::string value_to_toml(const ConfigField& field, const TrainConfig& config) {
  return std::visit(
      Overloaded{
          [&](int TrainConfig::*member) { return fmt::format("{}", config.*member); },
          [&](double TrainConfig::*member) { return number_to_toml(config.*member); },
          [&](bool TrainConfig::*member) { return fmt::format("{}", config.*member); },
          [&](std::string TrainConfig::*member) { return text_to_toml(config.*member); },
          [&](std::array<double, 2> TrainConfig::*member) {
            return fmt::format("[{}, {}]", number_to_toml((config.*member)[0]), number_to_toml((config.*member)[1]));
          },
          [&](std::vector<int> TrainConfig::*member) { return fmt::format("[{}]", fmt::join(config.*member, ", ")); },
      },
      field.member);
}

/// ` of at least 0`, ` from 0 to 1`, …
std::string describe(const ConfigRange& range) {
  const bool low = std::isfinite(range.low);
  const bool high = std::isfinite(range.high);
  if (low && high)
    return fmt::format(" {} {} {} {}", range.above_low ? "above" : "from", range.low, range.above_low ? "up to" : "to",
                       range.high);
  if (low) return fmt::format(" {} {}", range.above_low ? "above" : "of at least", range.low);
  return "";
}

std::string expected_of(const ConfigField& field) {
  return std::visit(Overloaded{
                        [&](int TrainConfig::*) { return "a whole number" + describe(field.range); },
                        [&](double TrainConfig::*) { return "a number" + describe(field.range); },
                        [&](bool TrainConfig::*) { return std::string("true or false"); },
                        [&](std::string TrainConfig::*) {
                          if (field.range.choices.empty()) return std::string("text");
                          std::string choices(field.range.choices);
                          for (std::size_t at; (at = choices.find('|')) != std::string::npos;)
                            choices.replace(at, 1, ", ");
                          return "one of " + choices;
                        },
                        [&](std::array<double, 2> TrainConfig::*) {
                          return fmt::format("two numbers{}, the smaller first", describe(field.range));
                        },
                        [&](std::vector<int> TrainConfig::*) {
                          return fmt::format("a list of whole numbers{}", describe(field.range));
                        },
                    },
                    field.member);
}

bool in_range(const ConfigRange& range, double value) {
  return std::isfinite(value) && (range.above_low ? value > range.low : value >= range.low) && value <= range.high;
}

bool is_choice(std::string_view choices, std::string_view value) {
  if (choices.empty()) return true;
  while (!choices.empty()) {
    const std::size_t end = std::min(choices.find('|'), choices.size());
    if (choices.substr(0, end) == value) return true;
    choices.remove_prefix(std::min(end + 1, choices.size()));
  }
  return false;
}

std::optional<int> as_int(const toml::node& node, const ConfigRange& range) {
  const auto value = node.value_exact<std::int64_t>();
  if (!value || !in_range(range, static_cast<double>(*value)) || *value > std::numeric_limits<int>::max())
    return std::nullopt;
  return static_cast<int>(*value);
}

std::optional<double> as_double(const toml::node& node, const ConfigRange& range) {
  if (!node.is_number()) return std::nullopt;
  const auto value = node.value<double>();
  if (!value || !in_range(range, *value)) return std::nullopt;
  return value;
}

/// Puts the value into the configuration; false when its type or range is not the field's.
bool assign(TrainConfig& config, const ConfigField& field, const toml::node& node) {
  const auto put = [&](auto member, auto value) {
    if (!value) return false;
    config.*member = std::move(*value);
    return true;
  };
  return std::visit(Overloaded{
                        [&](int TrainConfig::*member) { return put(member, as_int(node, field.range)); },
                        [&](double TrainConfig::*member) { return put(member, as_double(node, field.range)); },
                        [&](bool TrainConfig::*member) { return put(member, node.value_exact<bool>()); },
                        [&](std::string TrainConfig::*member) {
                          auto value = node.value_exact<std::string>();
                          if (value && !is_choice(field.range.choices, *value)) value.reset();
                          return put(member, std::move(value));
                        },
                        [&](std::array<double, 2> TrainConfig::*member) {
                          const toml::array* array = node.as_array();
                          if (array == nullptr || array->size() != 2) return false;
                          const auto low = as_double(*array->get(0), field.range);
                          const auto high = as_double(*array->get(1), field.range);
                          if (!low || !high || *low > *high) return false;
                          config.*member = {*low, *high};
                          return true;
                        },
                        [&](std::vector<int> TrainConfig::*member) {
                          const toml::array* array = node.as_array();
                          if (array == nullptr || array->empty()) return false;
                          std::vector<int> values;
                          for (const toml::node& element : *array) {
                            const auto value = as_int(element, field.range);
                            if (!value) return false;
                            values.push_back(*value);
                          }
                          config.*member = std::move(values);
                          return true;
                        },
                    },
                    field.member);
}

std::string node_to_string(const toml::node& node) {
  if (const toml::array* array = node.as_array()) {
    std::vector<std::string> elements;
    for (const toml::node& element : *array) elements.push_back(node_to_string(element));
    return fmt::format("[{}]", fmt::join(elements, ", "));
  }
  if (const auto text = node.value_exact<std::string>()) return text_to_toml(*text);
  if (const auto integer = node.value_exact<std::int64_t>()) return fmt::format("{}", *integer);
  if (const auto number = node.value_exact<double>()) return number_to_toml(*number);
  if (const auto boolean = node.value_exact<bool>()) return fmt::format("{}", *boolean);
  return node.is_table() ? "a table" : "a date or time";
}

/// One word of the command line as the TOML value that it looks like.
void append_word(toml::array& values, std::string_view word) {
  if (word == "true" || word == "false") {
    values.push_back(word == "true");
    return;
  }
  const char* end = word.data() + word.size();
  std::int64_t integer = 0;
  if (const auto [at, error] = std::from_chars(word.data(), end, integer); error == std::errc() && at == end) {
    values.push_back(integer);
    return;
  }
  double number = 0;
  if (const auto [at, error] = std::from_chars(word.data(), end, number); error == std::errc() && at == end) {
    values.push_back(number);
    return;
  }
  values.push_back(word);
}

}  // namespace

std::vector<ConfigKey> config_keys() {
  const TrainConfig defaults;
  std::vector<ConfigKey> keys;
  for (const ConfigField& field : config_table()) {
    const bool is_list = std::holds_alternative<std::array<double, 2> TrainConfig::*>(field.member) ||
                         std::holds_alternative<std::vector<int> TrainConfig::*>(field.member);
    keys.push_back(
        {field.section, field.name, value_to_toml(field, defaults), expected_of(field), field.comment, is_list});
  }
  return keys;
}

std::string config_value(const TrainConfig& config, std::string_view key) {
  const ConfigField* field = find_field(key);
  if (field == nullptr) fail("config", "unknown key {}; try {}", key, instead_of_key(key));
  return value_to_toml(*field, config);
}

TrainConfig parse_config(std::string_view text, std::string_view name) {
  toml::table table;
  try {
    table = toml::parse(text, name);
  } catch (const toml::parse_error& error) {
    const bool unquoted = error.description().find("could not determine value type") != std::string_view::npos;
    fail("config", "{}:{}: this is not TOML: {}{}", name, error.source().begin.line, error.description(),
         unquoted ? "; try quotes around texts, as in arch = \"vit_small\"" : "");
  }
  // In the order of the file, so that the first mistake is the one reported.
  std::vector<std::pair<const toml::key*, const toml::node*>> entries;
  for (auto&& [key, node] : table) entries.emplace_back(&key, &node);
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.first->source().begin.line < b.first->source().begin.line; });
  TrainConfig config;
  for (const auto& [key, node] : entries) {
    const auto line = key->source().begin.line;
    const ConfigField* field = find_field(key->str());
    if (field == nullptr && node->is_table())
      fail("config", "{}:{}: unknown table [{}]; keys stand at the top level", name, line, key->str());
    if (field == nullptr)
      fail("config", "{}:{}: unknown key {}; try {}", name, line, key->str(), instead_of_key(key->str()));
    require(assign(config, *field, *node), "config", "{}:{}: wrong value for {}; got {}, expected {}", name, line,
            field->name, node_to_string(*node), expected_of(*field));
  }
  return config;
}

TrainConfig read_config(const std::filesystem::path& path) {
  std::error_code none;
  require(!std::filesystem::is_directory(path, none), "config",
          "{} is a folder; expected a TOML file; try dino_cuda init {} to write one", path.string(), path.string());
  require(!std::filesystem::is_character_file(path, none) && !std::filesystem::is_block_file(path, none), "config",
          "{} is a device; expected a TOML file", path.string());
  const std::uintmax_t size_bytes = std::filesystem::file_size(path, none);
  require(none || size_bytes <= kMaxBytes, "config",
          "{} is too large; got {} bytes, expected a TOML file of at most {}", path.string(), size_bytes, kMaxBytes);
  // A pipe says its size when it has ended.
  return parse_config(read_text_file(path, kMaxBytes), path.string());
}

std::map<std::string, std::string> config_values(const std::filesystem::path& path) {
  std::map<std::string, std::string> values;
  try {
    for (auto&& [key, node] : toml::parse(read_text_file(path, kMaxBytes))) {
      values.emplace(std::string(key.str()), node_to_string(node));
    }
  } catch (const std::exception&) {
    return {};  // there is none, or it is torn
  }
  return values;
}

void override_config(TrainConfig& config, std::string_view key, std::string_view value) {
  const ConfigField* field = find_field(key);
  if (field == nullptr) fail("config", "unknown option --{}; try {}", key, instead_of_key(key, "--"));
  const bool is_text = std::holds_alternative<std::string TrainConfig::*>(field->member);
  const bool is_list = std::holds_alternative<std::array<double, 2> TrainConfig::*>(field->member) ||
                       std::holds_alternative<std::vector<int> TrainConfig::*>(field->member);
  toml::array values;
  if (is_text) {
    values.push_back(value);
  } else {
    std::string_view rest = value;
    const std::string_view separators = is_list ? " ,[]" : " ";
    while (!rest.empty()) {
      const std::size_t begin = std::min(rest.find_first_not_of(separators), rest.size());
      const std::size_t end = std::min(rest.find_first_of(separators, begin), rest.size());
      if (begin < end) append_word(values, rest.substr(begin, end - begin));
      rest.remove_prefix(end);
    }
  }
  const bool fits =
      is_list ? assign(config, *field, values) : values.size() == 1 && assign(config, *field, *values.get(0));
  require(fits, "config", "wrong value for --{}; got {}, expected {}", key, value, expected_of(*field));
}

void check_config(const TrainConfig& c) {
  const auto check = [](bool holds, const std::string& message) { require(holds, "config", "{}", message); };
  DeviceChoice::parse(c.device);
  for (const ConfigField& field : config_table()) {
    const auto* member = std::get_if<std::string TrainConfig::*>(&field.member);
    if (member == nullptr || is_utf8(c.**member)) continue;
    fail("config", "{} is not UTF-8, as TOML must be; got {}; try a link to it with another name", field.name,
         printable(c.**member));
  }
  check(c.global_crops_size % c.patch_size == 0,
        fmt::format("global_crops_size must be a multiple of patch_size; got {} and {}", c.global_crops_size,
                    c.patch_size));
  check(c.local_crops_number == 0 || c.local_crops_size % c.patch_size == 0,
        fmt::format("local_crops_size must be a multiple of patch_size; got {} and {}", c.local_crops_size,
                    c.patch_size));
  const bool long_warmup = c.warmup_epochs > c.epochs, long_temp_warmup = c.warmup_teacher_temp_epochs > c.epochs;
  const int one = std::min(c.epochs, 1);
  check(!long_warmup || !long_temp_warmup,
        fmt::format("warmup_epochs and warmup_teacher_temp_epochs must not exceed epochs; got {}, {} and {}; try "
                    "--warmup_epochs {} --warmup_teacher_temp_epochs {}",
                    c.warmup_epochs, c.warmup_teacher_temp_epochs, c.epochs, one, one));
  check(!long_warmup, fmt::format("warmup_epochs must not exceed epochs; got {} and {}; try --warmup_epochs {}",
                                  c.warmup_epochs, c.epochs, one));
  check(!long_temp_warmup, fmt::format("warmup_teacher_temp_epochs must not exceed epochs; got {} and {}; try "
                                       "--warmup_teacher_temp_epochs {}",
                                       c.warmup_teacher_temp_epochs, c.epochs, one));
  check(c.embed_dim == 0 || c.num_heads == 0 || c.embed_dim % c.num_heads == 0,
        fmt::format("embed_dim must be a multiple of num_heads; got {} and {}", c.embed_dim, c.num_heads));
}

std::vector<std::pair<std::string_view, std::string>> config_values(const TrainConfig& config) {
  std::vector<std::pair<std::string_view, std::string>> values;
  for (const ConfigField& field : config_table()) values.emplace_back(field.name, value_to_toml(field, config));
  return values;
}

std::string write_config(const TrainConfig& config) {
  constexpr std::size_t kCommentColumn = 36;
  std::string text = "# Configuration of a dino_cuda training run.\n";
  std::string_view section;
  for (const ConfigField& field : config_table()) {
    if (field.section != section) text += fmt::format("\n# {}\n", field.section);
    section = field.section;
    const std::string line = fmt::format("{} = {}", field.name, value_to_toml(field, config));
    text += fmt::format("{:<{}} # {}\n", line, kCommentColumn, field.comment);
  }
  return text;
}

}  // namespace dino
