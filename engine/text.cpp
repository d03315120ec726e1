#include "engine/text.h"

#include <fmt/format.h>

#include <locale.h>
#include <wchar.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <iterator>

namespace dino {
namespace {

/// Bytes of the sound UTF-8 character that `text` begins with; 0 where there is none.
std::size_t character_bytes(std::string_view text) {
  const auto at = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned first = at(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((at(i) & 0xC0) != 0x80) return 0;
  }
  // Too long for what they mean, halves of UTF-16 pairs, and beyond Unicode.
  if ((first == 0xE0 && at(1) < 0xA0) || (first == 0xED && at(1) > 0x9F)) return 0;
  if ((first == 0xF0 && at(1) < 0x90) || (first == 0xF4 && at(1) > 0x8F)) return 0;
  return length;
}

/// Bytes of the character that `text` begins with, or of the one byte that is none.
std::size_t step_of(std::string_view text) { return std::max<std::size_t>(1, character_bytes(text)); }

/// Columns of the first character of `text`, whatever language the process speaks.
std::size_t columns_of_first(std::string_view text) {
  const std::size_t length = character_bytes(text);
  const auto first = static_cast<unsigned char>(text.front());
  if (length <= 1) return 1;
  unsigned point = first & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) point = point << 6 | (static_cast<unsigned char>(text[i]) & 0x3Fu);
  static const locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
  if (utf8 == nullptr) return 1;
  const locale_t before = uselocale(utf8);  // of this thread
  const int columns = wcwidth(static_cast<wchar_t>(point));
  uselocale(before);
  return columns < 0 ? 1 : static_cast<std::size_t>(columns);
}

/// `\xfc`
void append_escape(std::string& to, char byte) {
  fmt::format_to(std::back_inserter(to), "\\x{:02x}", static_cast<unsigned char>(byte));
}

std::string escaped(std::string_view text, bool lines) {
  std::string result;
  while (!text.empty()) {
    const std::size_t length = character_bytes(text), step = step_of(text);
    const auto first = static_cast<unsigned char>(text.front());
    // Of two bytes, those that begin with C2 80 to C2 9F are control characters as well.
    const bool control =
        first < 0x20 || first == 0x7F || (length == 2 && first == 0xC2 && static_cast<unsigned char>(text[1]) < 0xA0);
    if ((length == 0 || control) && !(lines && first == '\n')) {
      for (const char byte : text.substr(0, step)) append_escape(result, byte);
    } else {
      result += text.substr(0, step);
    }
    text.remove_prefix(step);
  }
  return result;
}

}  // namespace

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = character_bytes(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string printable(std::string_view text) { return escaped(text, false); }
std::string printable_lines(std::string_view text) { return escaped(text, true); }

std::string escaped_bytes(std::string_view name) {
  if (is_utf8(name)) return std::string(name);
  std::string result;
  while (!name.empty()) {
    const std::size_t step = step_of(name);
    if (character_bytes(name) == 0 || name.front() == '\\') {
      append_escape(result, name.front());
    } else {
      result += name.substr(0, step);
    }
    name.remove_prefix(step);
  }
  return result;
}

std::string bytes_of_escaped(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    unsigned byte = 0;
    const bool escape = text.size() >= 4 && text.starts_with("\\x") &&
                        std::from_chars(text.data() + 2, text.data() + 4, byte, 16).ptr == text.data() + 4;
    result += escape ? static_cast<char>(byte) : text.front();
    text.remove_prefix(escape ? 4 : 1);
  }
  return result;
}

std::size_t columns_of(std::string_view text) {
  std::size_t columns = 0;
  for (; !text.empty(); text.remove_prefix(step_of(text))) columns += columns_of_first(text);
  return columns;
}

std::string_view first_columns(std::string_view text, std::size_t columns) {
  std::size_t end = 0;
  for (std::size_t taken = 0; end < text.size(); end += step_of(text.substr(end))) {
    taken += columns_of_first(text.substr(end));
    if (taken > columns) break;
  }
  return text.substr(0, end);
}

std::string in_columns(std::string_view text, std::size_t columns) {
  std::string result(text);
  if (columns_of(text) > columns) {
    result = first_columns(text, columns - std::min<std::size_t>(1, columns));
    if (columns > 0) result += "…";
  }
  return result.append(columns - columns_of(result), ' ');
}

std::string shell_word(std::string_view text) {
  constexpr std::string_view kPlain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./+,:@%=";
  const bool plain = !text.empty() && text.find_first_not_of(kPlain) == std::string_view::npos;
  if (plain) return std::string(text);
  const bool escapes = printable(text) != text;
  std::string word = escapes ? "$'" : "'";
  for (const char c : text) {
    if (escapes && (c == '\'' || c == '\\')) {
      word += {'\\', c};
    } else if (c == '\'') {
      word += "'\\''";
    } else {
      word += c;
    }
  }
  word += '\'';
  return escapes ? printable(word) : word;
}

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

}  // namespace dino
