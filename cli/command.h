#pragma once

#include <functional>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace dino {

/// An option or an argument of a command. Like Command it is a handle: a copy means the same one. What stands here of
/// CLI11 is as much as the commands use; its header costs each file that includes it seconds of compiling.
class Option {
 public:
  explicit Option(CLI::Option& option) : option_(&option) {}

  Option required() const;
  /// What the help writes for the value: `FILE`.
  Option type_name(const std::string& name) const;
  /// The help shows what the variable holds now, or `text`, as the default.
  Option capture_default_str() const;
  Option default_str(const std::string& text) const;
  /// How many words it takes.
  Option expected(int least, int most) const;
  /// Whether a list goes on with the words behind its first; else each has the option before it.
  Option allow_extra_args(bool allowed) const;
  /// Several values may stand in one word, with this between them.
  Option delimiter(char between) const;
  /// Not together with another one.
  Option excludes(Option other) const;

  // What is accepted; anything else is an error of the command line.
  Option positive() const;
  Option not_negative() const;
  Option in_range(int least, int most) const;
  Option in_range(double least, double most) const;
  Option one_of(const std::vector<std::string>& words) const;
  Option existing_file() const;
  /// `error` says what is wrong with a word; nothing: it is accepted.
  Option check(const std::function<std::string(const std::string& word)>& error) const;

 private:
  CLI::Option* option_;
};

/// A command of the program, or the program itself.
class Command {
 public:
  explicit Command(CLI::App& app) : app_(&app) {}

  Command add_subcommand(const std::string& name, const std::string& description) const;
  /// An option (`-k,--count`) or, where the name has no hyphen, an argument. `value` must live until the command line
  /// has been read. The types are those at the end of command.cpp.
  template <typename T>
  Option add_option(const std::string& name, T& value, const std::string& description) const;
  Option add_flag(const std::string& name, bool& value, const std::string& description) const;
  /// Called once the words of the command have been read.
  void callback(const std::function<void()>& action) const;
  void require_subcommand(int least, int most) const;
  /// Whether the command line names one.
  bool has_subcommand() const;

  CLI::App& app() const { return *app_; }

 private:
  CLI::App* app_;
};

/// Ends the reading of the command line with an error about one of its words.
[[noreturn]] void refuse_word(const std::string& word, const std::string& why);

}  // namespace dino
