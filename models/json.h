#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace dino {

/// JSON of a file that may come from anywhere; is_discarded() where it is none, or nested deeper than any of ours:
/// every level takes a hundred times the memory of its bracket.
nlohmann::json parse_json(std::string_view text);

/// A whole number from `least` to `most`, both included; none for anything else, of which a conversion to an integer
/// is undefined or another number.
std::optional<std::int64_t> whole_number(const nlohmann::json& value, std::int64_t least, std::int64_t most);

/// JSON as text, on one line unless `indent` is given, in which no character steers a terminal. Names of files need not
/// be UTF-8: those that are not become escaped_bytes().
std::string json_text(const nlohmann::json& json, int indent = -1);
std::string json_text(const nlohmann::ordered_json& json, int indent = -1);

}  // namespace dino
