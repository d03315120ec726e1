#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace dino {

/// Text as HTML, for the body and for attributes in quotes. Control characters and bytes that are no UTF-8 become
/// U+FFFD.
std::string escape_html(std::string_view text);

/// `data:TYPE;base64,…`
std::string data_uri(std::string_view type, std::span<const std::byte> bytes);

/// A number for people: about four digits, and an exponent only where it is shorter.
std::string short_number(double value);

/// A whole page around `body`, with the report's style and its script; needs nothing from elsewhere. `title` is text,
/// `body` is HTML.
std::string html_page(std::string_view title, std::string_view body);

}  // namespace dino
