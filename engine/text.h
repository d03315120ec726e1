#pragma once

#include <string>
#include <string_view>

namespace dino {

/// Is `text` sound UTF-8 (RFC 3629)? File names need not be.
bool is_utf8(std::string_view text);

/// `text` as one line that steers no terminal and goes into JSON: control characters and bytes that are not UTF-8
/// become
/// `\x0a`, which a shell's $'…' turns back.
std::string printable(std::string_view text);

}  // namespace dino
