#pragma once

#include <cstdio>

namespace dino {

/// Whether messages and progress bars are left out: what --quiet asks for. A property of the process, as its standard
/// error is; errors are said regardless.
bool is_quiet();
void set_quiet(bool quiet);

/// Whether `out` is a terminal on which a line can be drawn over: not a file or a pipe, and not TERM=dumb.
bool is_live_terminal(std::FILE* out);

/// Whether colours belong on `out`: a live terminal, unless NO_COLOR (https://no-color.org) or CLICOLOR=0
/// (https://bixense.com/clicolors) says otherwise; anywhere with CLICOLOR_FORCE, which NO_COLOR outvotes.
bool shows_colors(std::FILE* out);

/// How wide lines on `out` may be: COLUMNS where it is a number (1 to 10000), else the terminal's width, and 80 where
/// `out` is none.
int terminal_columns(std::FILE* out);

}  // namespace dino
