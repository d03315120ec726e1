#include "cli/output.h"

#include "engine/text.h"
#include "kernels/common/error.h"
#include "models/json.h"

#include <CLI/CLI.hpp>

namespace dino {

void add_json_option(Command command, bool& json) {
  command.add_flag("--json", json, "print the result as one JSON document");
}

void add_quiet_options(Command command) {
  CLI::App& app = command.app();
  const auto commands = app.get_subcommands([](const CLI::App*) { return true; });
  for (CLI::App* each : commands) add_quiet_options(Command(*each));
  if (!commands.empty() && app.get_require_subcommand_min() > 0) return;
  app.add_flag_function(
      "--quiet", [](std::int64_t) { set_quiet(true); }, "no progress and no messages; results and errors stay");
}

void require_not_read(const char* where, const std::filesystem::path& written, const std::vector<std::string>& read) {
  std::error_code none;
  if (!std::filesystem::exists(written, none)) return;
  for (const std::string& file : read) {
    require(!std::filesystem::equivalent(written, file, none), where,
            "{} would take the place of {}, which is read; try another name for what is written", written.string(),
            file);
  }
}

void require_extension(const char* where, const std::filesystem::path& written, const std::string& extension) {
  require(lower_case(written.extension().string()) == extension, where, "got the name {}, expected NAME{}",
          written.string(), extension);
}

void print_json(const nlohmann::ordered_json& document) { fmt::print("{}\n", json_text(document, 2)); }

}  // namespace dino
