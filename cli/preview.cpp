#include "cli/preview.h"

#include "cli/output.h"
#include "visualize/terminal_preview.h"

namespace dino {

void show_preview(const Image& picture) {
  if (!shows_colors(stdout)) {
    say("no preview: the output is no terminal with colours; CLICOLOR_FORCE=1 makes one regardless");
    return;
  }
  fmt::print("{}", terminal_preview(picture, terminal_columns(stdout)));
}

}  // namespace dino
