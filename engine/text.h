#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace dino {

/// Is `text` sound UTF-8 (RFC 3629)? File names need not be.
bool is_utf8(std::string_view text);

/// `text` as one line that steers no terminal and goes into JSON: control characters and bytes that are not UTF-8
/// become `\x0a`, which a shell's $'…' turns back.
std::string printable(std::string_view text);

/// As printable(), but the ends of lines stay: for what is several lines on a terminal.
std::string printable_lines(std::string_view text);

/// A name as UTF-8, for files that must be: itself where it is, else with `\xfc` for each byte that is not and `\x5c`
/// for a backslash, which bytes_of_escaped() turns back.
std::string escaped_bytes(std::string_view name);
/// The name that escaped_bytes() made `text` of, where that was not UTF-8.
std::string bytes_of_escaped(std::string_view text);

/// Columns that `text` takes on a terminal: two for a wide character, none for one that stands on the one before
/// (an accent), as the C library's wcwidth() has it; one for a byte that is not UTF-8.
std::size_t columns_of(std::string_view text);

/// The longest beginning of `text` that takes at most so many columns; characters stay whole, with their accents.
std::string_view first_columns(std::string_view text, std::size_t columns);

/// `text` in exactly so many columns: filled with spaces, or its end cut off and `…` in its place.
std::string in_columns(std::string_view text, std::size_t columns);

/// `text` as one word of a command that a person copies into a shell: quoted where it has to be, with control
/// characters and bytes that are not UTF-8 as printable() writes them.
std::string shell_word(std::string_view text);

/// A to Z as a to z, other bytes as they are.
std::string lower_case(std::string_view text);

}  // namespace dino
