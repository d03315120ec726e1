#pragma once

#include <string>
#include <string_view>

namespace dino {

/// Is `text` sound UTF-8 (RFC 3629)? File names need not be.
bool is_utf8(std::string_view text);

/// `text` as one line that steers no terminal and goes into JSON: control characters and bytes that are not UTF-8
/// become `\x0a`, which a shell's $'…' turns back.
std::string printable(std::string_view text);

/// `text` as one word of a command that a person copies into a shell: quoted where it has to be, with control
/// characters and bytes that are not UTF-8 as printable() writes them.
std::string shell_word(std::string_view text);

/// A to Z as a to z, other bytes as they are.
std::string lower_case(std::string_view text);

}  // namespace dino
