#include "engine/text.h"

#include "tests/support/catch.h"

#include <cstdio>
#include <string>

using namespace dino;

TEST_CASE("UTF-8 is told from what only looks like it") {
  // First and last characters of every length.
  for (const char* text : {"", "plain\n", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf",
                           "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "a\xc3\xa4z"}) {
    INFO(text);
    CHECK(is_utf8(text));
  }
  // Alone, cut short, too long for its meaning, half of a pair, beyond Unicode, Latin-1.
  for (const char* text :
       {"\x80", "\xc3", "\xe2\x82", "\xf0\x9f\x98", "\xc0\xaf", "\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf",
        "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "M\xfcller"}) {
    INFO(printable(text));
    CHECK_FALSE(is_utf8(text));
  }
}

TEST_CASE("Printable text is one line of UTF-8 that a shell can turn back") {
  CHECK(printable("photos/caf\xc3\xa9 1.jpg") == "photos/caf\xc3\xa9 1.jpg");
  CHECK(printable("a\nb\tc\x1b[31m\x7f") == "a\\x0ab\\x09c\\x1b[31m\\x7f");
  CHECK(printable("M\xfcller") == "M\\xfcller");
  CHECK(printable("\xc2\x9b"
                  "1m") == "\\xc2\\x9b1m");  // a terminal's escape in one character
  CHECK(printable(std::string_view("\0\xe2\x82", 3)) == "\\x00\\xe2\\x82");
}

TEST_CASE("A shell takes a word back to what it was") {
  CHECK(shell_word("runs/a-1.toml") == "runs/a-1.toml");
  CHECK(shell_word("") == "''");
  CHECK(shell_word("my photos") == "'my photos'");
  for (const std::string text : {"", "plain.jpg", "two words", "it's", "$(touch x)`touch y`;&|<>*?[a]!#~", "a\\b\"c",
                                 "caf\xc3\xa9 1", "M\xfcller's\\", "two\nlines\t'\\", "\x1b[31mred\x7f"}) {
    const std::string word = shell_word(text);
    INFO(word);
    CHECK(printable(word) == word);
    std::FILE* shell = popen(("bash -c " + shell_word("printf %s " + word)).c_str(), "r");
    REQUIRE(shell != nullptr);
    std::string back(64, '\0');
    back.resize(std::fread(back.data(), 1, back.size(), shell));
    CHECK(pclose(shell) == 0);
    CHECK(back == text);
  }
}

TEST_CASE("Several lines are printable and stay lines") {
  CHECK(printable_lines("a\n\tb\x1b[2J\n") == "a\n\\x09b\\x1b[2J\n");
  CHECK(printable_lines("M\xfcller \xc2\x9b"
                        "1m") == "M\\xfcller \\xc2\\x9b1m");
}

TEST_CASE("Text takes the columns that a terminal gives it") {
  CHECK(columns_of("") == 0);
  CHECK(columns_of("plain") == 5);
  CHECK(columns_of("M\xc3\xbcller") == 6);
  CHECK(columns_of("Mu\xcc\x88ller") == 6);  // u and a combining diaeresis
  CHECK(columns_of("日本語") == 6);
  CHECK(columns_of("\xf0\x9f\x98\x80") == 2);  // an emoji
  CHECK(columns_of("M\xfcller") == 6);
  for (std::size_t columns = 0; columns < 10; ++columns) {
    const std::string_view start = first_columns("日本x語", columns);
    INFO(columns);
    CHECK(start == (columns < 2 ? "" : columns < 4 ? "日" : columns < 5 ? "日本" : columns < 7 ? "日本x" : "日本x語"));
  }
  CHECK(first_columns("au\xcc\x88z", 2) == "au\xcc\x88");  // the accent stays with its letter
  CHECK(first_columns("\xff\xfe", 1) == "\xff");

  CHECK(in_columns("ab", 4) == "ab  ");
  CHECK(in_columns("日本", 5) == "日本 ");
  CHECK(in_columns("日本語", 5) == "日本…");
  CHECK(in_columns("日本語", 4) == "日… ");
  CHECK(in_columns("u\xcc\x88", 1) == "u\xcc\x88");
  CHECK(in_columns("abc", 1) == "…");
  CHECK(in_columns("abc", 0).empty());
}

TEST_CASE("A name that is not UTF-8 becomes text and comes back") {
  CHECK(escaped_bytes("M\xc3\xbcller\n\\x41") == "M\xc3\xbcller\n\\x41");
  CHECK(escaped_bytes("\xff\\x41\xc3\xbc") == "\\xff\\x5cx41\xc3\xbc");
  for (const std::string name : {"M\xfcller.jpg", "\xff\xfe", "\\\xc3", "\\xfc\xfc", "a\n\xe4\\", "\xf0\x9f\x98"}) {
    INFO(printable(name));
    CHECK(is_utf8(escaped_bytes(name)));
    CHECK(bytes_of_escaped(escaped_bytes(name)) == name);
  }
  CHECK(bytes_of_escaped("\\x") == "\\x");
  CHECK(bytes_of_escaped("\\xg1\\x4") == "\\xg1\\x4");
}

TEST_CASE("Lower case is that of ASCII") {
  CHECK(lower_case("A.JpEg") == "a.jpeg");
  CHECK(lower_case("\xc3\x84@[`{Z") == "\xc3\x84@[`{z");
}
