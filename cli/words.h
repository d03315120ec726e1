#pragma once

#include "cli/command.h"

#include <string>
#include <vector>

namespace dino {

// What is done with the words of a command line before they are read: `dino_cuda eval knn --image_size 96`.

/// `help` and `help train` as `--help` and `train --help`; options with hyphens or underscores, whichever the command
/// writes.
std::vector<std::string> as_written_here(Command program, std::vector<std::string> words);

/// Refuses a first word that is no command, and options that the command does not have, with what was probably meant,
/// which may be what the official scripts call it. Before anything else, as what is missing is often what was misspelt.
void refuse_unknown_words(Command program, const std::vector<std::string>& words);

}  // namespace dino
