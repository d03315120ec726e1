#include "models/json.h"

#include "engine/text.h"

#include <fmt/format.h>

#include <limits>

namespace dino {
namespace {

constexpr int kMaxDepth = 64;

bool nested_too_deep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

template <typename Json>
Json with_escaped_bytes(const Json& json) {
  if (json.is_string()) return escaped_bytes(json.template get_ref<const std::string&>());
  Json copy = json;
  if (json.is_object()) {
    copy = Json::object();
    for (const auto& [key, value] : json.items()) copy[escaped_bytes(key)] = with_escaped_bytes(value);
  }
  if (json.is_array()) {
    for (Json& value : copy) value = with_escaped_bytes(value);
  }
  return copy;
}

/// JSON has the control characters of ASCII as escapes, but not DEL and those of two bytes (C2 80 to C2 9F).
std::string without_controls(std::string text) {
  const auto is_control = [&](std::size_t at) {
    const auto byte = static_cast<unsigned char>(text[at]);
    return byte == 0x7F || (byte == 0xC2 && at + 1 < text.size() && static_cast<unsigned char>(text[at + 1]) < 0xA0);
  };
  for (std::size_t at = 0; (at = text.find_first_of("\x7f\xc2", at)) != std::string::npos; ++at) {
    if (!is_control(at)) continue;
    const bool alone = text[at] == 0x7F;
    const auto code = static_cast<unsigned char>(text[alone ? at : at + 1]);
    text.replace(at, alone ? 1 : 2, fmt::format("\\u{:04x}", code));
  }
  return text;
}

template <typename Json>
std::string text_of(const Json& json, int indent) {
  try {
    return without_controls(json.dump(indent, ' ', false));
  } catch (const nlohmann::json::type_error&) {  // not UTF-8
    return without_controls(with_escaped_bytes(json).dump(indent, ' ', false));
  }
}

}  // namespace

std::string json_text(const nlohmann::json& json, int indent) { return text_of(json, indent); }
std::string json_text(const nlohmann::ordered_json& json, int indent) { return text_of(json, indent); }

nlohmann::json parse_json(std::string_view text) {
  if (nested_too_deep(text)) return nlohmann::json::value_t::discarded;
  return nlohmann::json::parse(text, nullptr, false);
}

std::optional<std::int64_t> whole_number(const nlohmann::json& value, std::int64_t least, std::int64_t most) {
  if (!value.is_number_integer()) return std::nullopt;
  constexpr std::uint64_t kMost = std::numeric_limits<std::int64_t>::max();
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > kMost) return std::nullopt;
  const auto number = value.get<std::int64_t>();
  return number >= least && number <= most ? std::optional(number) : std::nullopt;
}

}  // namespace dino
