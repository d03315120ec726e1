// Completion scripts for shells, made from the same tree of commands that prints the help.
#include "cli/command_tree.h"
#include "cli/commands.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>

namespace dino {
namespace {

/// In single quotes of a POSIX shell.
std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

/// A description on one line, short enough for a list of choices.
std::string brief(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  constexpr std::size_t kMost = 90;
  if (text.size() <= kMost) return text;
  std::size_t end = text.rfind(' ', kMost);
  return text.substr(0, end == std::string::npos ? kMost : end) + " ...";
}

const std::vector<std::string> kDevices{"auto", "cpu", "cuda"};

const std::vector<std::string>& words_for(const OptionEntry& option) {
  return option.kind == ArgumentKind::device ? kDevices : option.choices;
}

/// Which of the positional arguments' kinds decides what a bare word completes to: names of files unless all have
/// choices.
const OptionEntry* first_argument(const CommandEntry& command) {
  return command.arguments.empty() ? nullptr : &command.arguments.front();
}

std::vector<std::string> names_of(const CommandEntry& command) {
  std::vector<std::string> names;
  for (const OptionEntry& option : command.options) names.insert(names.end(), option.names.begin(), option.names.end());
  return names;
}

/// Patterns of a `case` over "command word" that recognise the commands.
template <typename Print>
void for_commands(const std::vector<CommandEntry>& tree, const Print& print) {
  for (const CommandEntry& command : tree) {
    for (const std::string& name : command.commands)
      print(command.path + ":" + name, command.path + (command.path.empty() ? "" : " ") + name);
  }
}

std::string bash_action(const OptionEntry& option) {
  switch (option.kind) {
    case ArgumentKind::choice:
    case ArgumentKind::device:
      return fmt::format("_dino_cuda_words {}", quoted(fmt::format("{}", fmt::join(words_for(option), " "))));
    case ArgumentKind::file: return "_dino_cuda_files -f";
    case ArgumentKind::folder: return "_dino_cuda_files -f";  // lists of pictures are files
    default: return ":";
  }
}

void print_bash(const std::vector<CommandEntry>& tree) {
  fmt::print(R"(# bash completion of dino_cuda; made by `dino_cuda completion bash`.
_dino_cuda_words() {{ mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur"); }}
_dino_cuda_files() {{
  compopt -o filenames 2>/dev/null
  mapfile -t COMPREPLY < <(compgen "$1" -- "$cur")
}}
_dino_cuda() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} command= i
  COMPREPLY=()
  # bash splits --option=value at the sign.
  if [[ $cur == = ]]; then
    cur=
  elif [[ $prev == = && COMP_CWORD -gt 1 ]]; then
    prev=${{COMP_WORDS[COMP_CWORD - 2]}}
  fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$command:${{COMP_WORDS[i]}}" in
)");
  for_commands(tree, [](const std::string& pattern, const std::string& path) {
    fmt::print("      {}) command={} ;;\n", quoted(pattern), quoted(path));
  });
  fmt::print("    esac\n  done\n  case \"$command:$prev\" in\n");
  for (const CommandEntry& command : tree) {
    for (const OptionEntry& option : command.options) {
      if (option.kind == ArgumentKind::none) continue;
      std::vector<std::string> patterns;
      for (const std::string& name : option.names) patterns.push_back(quoted(command.path + ":" + name));
      fmt::print("    {}) {}; return ;;\n", fmt::join(patterns, "|"), bash_action(option));
    }
  }
  fmt::print("  esac\n  if [[ $cur == -* ]]; then\n    case \"$command\" in\n");
  for (const CommandEntry& command : tree)
    fmt::print("      {}) _dino_cuda_words {} ;;\n", quoted(command.path),
               quoted(fmt::format("{}", fmt::join(names_of(command), " "))));
  fmt::print("    esac\n    return\n  fi\n  case \"$command\" in\n");
  for (const CommandEntry& command : tree) {
    const OptionEntry* argument = first_argument(command);
    if (!command.commands.empty()) {
      fmt::print("    {}) _dino_cuda_words {} ;;\n", quoted(command.path),
                 quoted(fmt::format("{}", fmt::join(command.commands, " "))));
    } else if (argument != nullptr) {
      fmt::print("    {}) {} ;;\n", quoted(command.path), bash_action(*argument));
    }
  }
  fmt::print("  esac\n}}\ncomplete -F _dino_cuda dino_cuda ./dino_cuda\n");
}

/// `name:description` for zsh's _describe.
std::string described(std::string name, const std::string& description) {
  std::string escaped;
  for (const char c : name) escaped += c == ':' ? std::string("\\:") : std::string(1, c);
  return quoted(escaped + ":" + brief(description));
}

std::string zsh_action(const OptionEntry& option) {
  switch (option.kind) {
    case ArgumentKind::choice:
    case ArgumentKind::device: {
      std::vector<std::string> words;
      for (const std::string& word : words_for(option)) words.push_back(quoted(word));
      return fmt::format("compadd -- {}", fmt::join(words, " "));
    }
    case ArgumentKind::file:
    case ArgumentKind::folder: return "_files";
    default: return fmt::format("_message {}", quoted(brief(option.description)));
  }
}

const CommandEntry& entry_of(const std::vector<CommandEntry>& tree, const std::string& path) {
  return *std::find_if(tree.begin(), tree.end(), [&](const CommandEntry& command) { return command.path == path; });
}

void print_zsh(const std::vector<CommandEntry>& tree) {
  fmt::print(R"(#compdef dino_cuda
# zsh completion of dino_cuda; made by `dino_cuda completion zsh`. Put it as _dino_cuda into a folder of $fpath, or source it.
_dino_cuda() {{
  local command= i prev=${{words[CURRENT-1]}}
  local -a entries
  # --option=value is one word here.
  if [[ ${{words[CURRENT]}} == --*=* ]]; then
    prev=${{words[CURRENT]%%=*}}
    compset -P 1 '*='
  fi
  for ((i = 2; i < CURRENT; i++)); do
    case "$command:${{words[i]}}" in
)");
  for_commands(tree, [](const std::string& pattern, const std::string& path) {
    fmt::print("      {}) command={} ;;\n", quoted(pattern), quoted(path));
  });
  fmt::print("    esac\n  done\n  case \"$command:$prev\" in\n");
  for (const CommandEntry& command : tree) {
    for (const OptionEntry& option : command.options) {
      if (option.kind == ArgumentKind::none) continue;
      std::vector<std::string> patterns;
      for (const std::string& name : option.names) patterns.push_back(quoted(command.path + ":" + name));
      fmt::print("    {}) {}; return ;;\n", fmt::join(patterns, "|"), zsh_action(option));
    }
  }
  fmt::print("  esac\n  if [[ ${{words[CURRENT]}} == -* ]]; then\n    case \"$command\" in\n");
  for (const CommandEntry& command : tree) {
    fmt::print("      {}) entries=(\n", quoted(command.path));
    for (const OptionEntry& option : command.options) {
      for (const std::string& name : option.names) fmt::print("        {}\n", described(name, option.description));
    }
    fmt::print("      ) ;;\n");
  }
  fmt::print("    esac\n    _describe -o option entries\n    return\n  fi\n  case \"$command\" in\n");
  for (const CommandEntry& command : tree) {
    const OptionEntry* argument = first_argument(command);
    if (!command.commands.empty()) {
      fmt::print("    {}) entries=(\n", quoted(command.path));
      for (const std::string& name : command.commands)
        fmt::print("        {}\n",
                   described(name, entry_of(tree, command.path + (command.path.empty() ? "" : " ") + name).summary()));
      fmt::print("      ); _describe command entries ;;\n");
    } else if (argument != nullptr) {
      fmt::print("    {}) {} ;;\n", quoted(command.path), zsh_action(*argument));
    }
  }
  // As a file of $fpath it is the function's body; sourced it has to be announced.
  fmt::print(
      "  esac\n}}\nif [[ $funcstack[1] == _dino_cuda ]]; then\n  _dino_cuda \"$@\"\nelse\n  compdef _dino_cuda "
      "dino_cuda\nfi\n");
}

/// In single quotes of fish.
std::string fish_quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' || c == '\\' ? std::string("\\") + c : std::string(1, c);
  return result + "'";
}

void print_fish(const std::vector<CommandEntry>& tree) {
  fmt::print(R"(# fish completion of dino_cuda; made by `dino_cuda completion fish`.
function __dino_cuda_at
  set -l command ''
  for word in (commandline -opc)[2..-1]
    switch "$command:$word"
)");
  for_commands(tree, [](const std::string& pattern, const std::string& path) {
    fmt::print("      case {}\n        set command {}\n", fish_quoted(pattern), fish_quoted(path));
  });
  fmt::print("    end\n  end\n  test \"$command\" = \"$argv[1]\"\nend\n");
  for (const CommandEntry& command : tree) {
    const std::string at = fmt::format("complete -c dino_cuda -n \"__dino_cuda_at {}\"", fish_quoted(command.path));
    for (const std::string& name : command.commands) {
      fmt::print("{} -f -a {} -d {}\n", at, fish_quoted(name),
                 fish_quoted(brief(entry_of(tree, command.path + (command.path.empty() ? "" : " ") + name).summary())));
    }
    const OptionEntry* argument = first_argument(command);
    if (argument != nullptr && argument->kind == ArgumentKind::choice)
      fmt::print("{} -f -a {}\n", at, fish_quoted(fmt::format("{}", fmt::join(argument->choices, " "))));
    for (const OptionEntry& option : command.options) {
      std::string names;
      for (const std::string& name : option.names)
        names += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
      std::string takes;
      if (option.kind == ArgumentKind::choice || option.kind == ArgumentKind::device) {
        takes = fmt::format(" -x -a {}", fish_quoted(fmt::format("{}", fmt::join(words_for(option), " "))));
      } else if (option.kind == ArgumentKind::file || option.kind == ArgumentKind::folder) {
        takes = " -r -F";
      } else if (option.kind == ArgumentKind::text) {
        takes = " -x";
      }
      fmt::print("{}{}{} -d {}\n", at, names, takes, fish_quoted(brief(option.description)));
    }
  }
}

}  // namespace

void add_completion_command(Command app, Run& run) {
  const Command command = app.add_subcommand(
      "completion",
      "Print a script that lets a shell complete commands, options, their choices and the keys of a configuration.\n\n"
      "  source <(dino_cuda completion bash)                                     in this shell; zsh after compinit\n"
      "  dino_cuda completion fish | source                                      likewise\n"
      "  dino_cuda completion bash > ~/.local/share/bash-completion/completions/dino_cuda\n"
      "  dino_cuda completion zsh > ~/.zsh/_dino_cuda                            a folder of $fpath\n"
      "  dino_cuda completion fish > ~/.config/fish/completions/dino_cuda.fish\n");
  auto shell = std::make_shared<std::string>();
  command.add_option("shell", *shell, "which shell").required().one_of({"bash", "zsh", "fish"});
  command.callback([shell, app, &run] {
    run = [shell, app] {
      const std::vector<CommandEntry> tree = command_tree(app);
      if (*shell == "bash") print_bash(tree);
      if (*shell == "zsh") print_zsh(tree);
      if (*shell == "fish") print_fish(tree);
      return 0;
    };
  });
}

}  // namespace dino
