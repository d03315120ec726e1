#include "cli/command.h"

#include "engine/files.h"

#include <CLI/CLI.hpp>

#include <fmt/format.h>

#include <cstdint>
#include <filesystem>

namespace dino {

Option Option::required() const { return Option(*option_->required()); }
Option Option::type_name(const std::string& name) const { return Option(*option_->type_name(name)); }
Option Option::capture_default_str() const { return Option(*option_->capture_default_str()); }
Option Option::default_str(const std::string& text) const { return Option(*option_->default_str(text)); }
Option Option::expected(int least, int most) const { return Option(*option_->expected(least, most)); }
Option Option::allow_extra_args(bool allowed) const { return Option(*option_->allow_extra_args(allowed)); }
Option Option::delimiter(char between) const { return Option(*option_->delimiter(between)); }
Option Option::excludes(Option other) const { return Option(*option_->excludes(other.option_)); }

Option Option::positive() const {
  // CLI11's own tells the bounds of a double, of which the lower one reads as 0.
  const auto error = [](std::string& word) {
    double value = 0;
    return CLI::detail::lexical_cast(word, value) && value > 0 ? "" : "Value " + word + " is not a positive number";
  };
  return Option(*option_->check(CLI::Validator(error, "POSITIVE")));
}
Option Option::not_negative() const { return Option(*option_->check(CLI::NonNegativeNumber)); }
Option Option::in_range(int least, int most) const { return Option(*option_->check(CLI::Range(least, most))); }
Option Option::in_range(double least, double most) const {
  // CLI11's own writes the bounds with six zeros, and lets NaN pass.
  const auto error = [least, most](std::string& word) {
    double value = 0;
    return CLI::detail::lexical_cast(word, value) && value >= least && value <= most
               ? ""
               : fmt::format("Value {} not in range {} to {}", word, least, most);
  };
  return Option(*option_->check(CLI::Validator(error, fmt::format("FLOAT in [{} - {}]", least, most))));
}
Option Option::one_of(const std::vector<std::string>& words) const {
  return Option(*option_->check(CLI::IsMember(words)));
}
Option Option::existing_file() const {
  // CLI11's own says of whatever cannot be looked at that it does not exist.
  const auto error = [](std::string& word) {
    const std::string obstacle = why_no_file(word);
    return obstacle.empty() ? "" : "cannot read " + word + ": " + obstacle;
  };
  return Option(*option_->check(CLI::Validator(error, "FILE")));
}
Option Option::check(const std::function<std::string(const std::string&)>& error) const {
  return Option(*option_->check(error));
}

Command Command::add_subcommand(const std::string& name, const std::string& description) const {
  return Command(*app_->add_subcommand(name, description));
}
template <typename T>
Option Command::add_option(const std::string& name, T& value, const std::string& description) const {
  return Option(*app_->add_option(name, value, description));
}
Option Command::add_flag(const std::string& name, bool& value, const std::string& description) const {
  return Option(*app_->add_flag(name, value, description));
}
void Command::callback(const std::function<void()>& action) const { app_->callback(action); }
void Command::require_subcommand(int least, int most) const {
  app_->require_subcommand(static_cast<std::size_t>(least), static_cast<std::size_t>(most));
}
bool Command::has_subcommand() const { return !app_->get_subcommands().empty(); }

void refuse_word(const std::string& word, const std::string& why) { throw CLI::ValidationError(word, why); }

template Option Command::add_option(const std::string&, int&, const std::string&) const;
template Option Command::add_option(const std::string&, std::int64_t&, const std::string&) const;
template Option Command::add_option(const std::string&, std::uint64_t&, const std::string&) const;
template Option Command::add_option(const std::string&, double&, const std::string&) const;
template Option Command::add_option(const std::string&, std::string&, const std::string&) const;
template Option Command::add_option(const std::string&, std::filesystem::path&, const std::string&) const;
template Option Command::add_option(const std::string&, std::vector<int>&, const std::string&) const;
template Option Command::add_option(const std::string&, std::vector<double>&, const std::string&) const;
template Option Command::add_option(const std::string&, std::vector<std::string>&, const std::string&) const;

}  // namespace dino
