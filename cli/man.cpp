// The manual page, made from the same tree of commands that prints the help.
#include "cli/command_tree.h"
#include "cli/commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

namespace dino {
namespace {

/// Text for roff: nothing in it is a request, and what is not ASCII goes by its code point.
std::string roff(const std::string& text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c == '\\') {
      result += "\\e";
    } else if (c == '-') {
      result += "\\-";
    } else if ((c == '.' || c == '\'') && (i == 0 || text[i - 1] == '\n')) {
      result += std::string("\\&") + text[i];
    } else if (c < 0x80) {
      result += text[i];
    } else {
      // UTF-8: the lead byte says how many follow, of which each has six bits.
      const std::size_t more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
      std::uint32_t point = c & (0x3fU >> more);
      for (std::size_t k = 0; k < more && i + 1 < text.size(); ++k)
        point = point << 6 | (static_cast<unsigned char>(text[++i]) & 0x3fU);
      result += fmt::format("\\[u{:04X}]", point);
    }
  }
  return result;
}

std::string in_bold(const std::string& text) { return "\\fB" + roff(text) + "\\fR"; }
std::string in_italics(const std::string& text) { return "\\fI" + roff(text) + "\\fR"; }

void print_option(const OptionEntry& option) {
  std::string names;
  for (const std::string& name : option.names) names += (names.empty() ? "" : ", ") + in_bold(name);
  if (!option.value_name.empty()) {
    names += (names.empty() ? "" : " ") + in_italics(option.value_name);
    if (option.many) names += " ...";
  }
  // Keys of the configuration say their default themselves.
  const bool says_default = option.default_value.empty() || option.description.find("default") != std::string::npos;
  const std::string otherwise = option.required ? " (required)"
                                : says_default  ? ""
                                                : fmt::format(" (default: {})", option.default_value);
  fmt::print(".TP\n{}\n{}{}\n", names, roff(option.description), roff(otherwise));
}

void print_examples(const CommandEntry& command) {
  if (command.examples.empty()) return;
  fmt::print(".PP\n.EX\n");
  for (const std::string& example : command.examples) fmt::print("{}\n", roff(example));
  fmt::print(".EE\n");
}

void print_synopsis(const CommandEntry& command) {
  std::string line = in_bold("dino_cuda " + command.path);
  if (!command.options.empty()) line += " [" + in_italics("options") + "]";
  for (const OptionEntry& argument : command.arguments) {
    const std::string name = in_italics(argument.value_name) + (argument.many ? " ..." : "");
    line += argument.required ? " " + name : " [" + name + "]";
  }
  fmt::print(".PP\n{}\n", line);
}

void print_keys(const std::vector<CommandEntry>& tree) {
  const auto train =
      std::find_if(tree.begin(), tree.end(), [](const CommandEntry& command) { return command.path == "train"; });
  fmt::print(".SH CONFIGURATION\nKeys of the TOML file, each of which is an option of {} as well.\n", in_bold("train"));
  std::string section;
  for (const OptionEntry& option : train->options) {
    if (option.section.empty()) continue;
    if (option.section != section) fmt::print(".SS {}\n", roff(option.section));
    section = option.section;
    OptionEntry key = option;
    for (std::string& name : key.names) name = name.substr(2);
    print_option(key);
  }
}

void print_man(const std::vector<CommandEntry>& tree) {
  fmt::print(
      ".\\\" Made by `dino_cuda man`.\n.TH DINO_CUDA 1 \"\" \"dino_cuda {}\" \"User Commands\"\n"
      ".SH NAME\ndino_cuda \\- train, evaluate and look into DINO vision transformers\n.SH SYNOPSIS\n"
      "{} {} [{}]\n",
      DINO_VERSION, in_bold("dino_cuda"), in_italics("command"), in_italics("options"));
  fmt::print(".SH DESCRIPTION\n{}\n", roff(tree.front().description));
  print_examples(tree.front());
  fmt::print(".SH COMMANDS\n");
  for (const CommandEntry& command : tree) {
    if (command.path.empty()) continue;
    fmt::print(".SS {}\n{}\n", roff(command.path), roff(command.description));
    if (!command.commands.empty() && command.options.size() <= 1) continue;  // its subcommands follow
    print_synopsis(command);
    print_examples(command);
    for (const OptionEntry& argument : command.arguments) print_option(argument);
    bool has_keys = false;
    for (const OptionEntry& option : command.options) {
      has_keys = has_keys || !option.section.empty();
      if (option.section.empty()) print_option(option);
    }
    if (has_keys)
      fmt::print(".TP\n{} {}\nAny key of the configuration, see below.\n", in_bold("--KEY"), in_italics("VALUE"));
  }
  print_keys(tree);
  fmt::print(
      ".SH ENVIRONMENT\n"
      ".TP\n{}\nThreads that compute on the CPU.\n"
      ".TP\n{}\nWhere set and not empty, no colours.\n"
      ".TP\n{}, {}\nAt 0 no colours; forced: colours and previews also where the output is no terminal.\n"
      ".TP\n{}\nAt \"dumb\" no colours, and progress in plain lines.\n"
      ".SH EXIT STATUS\n"
      ".TP\n0\nDone.\n.TP\n1\nAn error, said in one line on standard error.\n.TP\n2\nA command line that is not "
      "understood.\n"
      ".TP\n3\nA check that failed: {} found something wrong, or {} something slower.\n"
      ".TP\n130, 143\nStopped by Ctrl\\-C or SIGTERM; training has saved its state.\n",
      in_bold("OMP_NUM_THREADS"), in_bold("NO_COLOR"), in_bold("CLICOLOR"), in_bold("CLICOLOR_FORCE"), in_bold("TERM"),
      in_bold("selftest"), in_bold("bench --baseline"));
}

}  // namespace

void add_man_command(Command app, Run& run) {
  const Command command = app.add_subcommand("man",
                                             "Print the manual page: all commands, options and keys.\n\n"
                                             "  dino_cuda man | man -l -\n"
                                             "  dino_cuda man > ~/.local/share/man/man1/dino_cuda.1\n");
  command.callback([app, &run] {
    run = [app] {
      print_man(command_tree(app));
      return 0;
    };
  });
}

}  // namespace dino
