#include "train/run_log.h"

#include "engine/files.h"
#include "kernels/common/error.h"

#include <nlohmann/json.hpp>

#include <sstream>

namespace dino {

RunLog::RunLog(const std::filesystem::path& path, std::int64_t first_step) : path_(path) {
  std::string kept;
  if (first_step > 0 && std::filesystem::exists(path)) {
    std::stringstream text(read_text_file(path));
    for (std::string line; std::getline(text, line);) {
      const auto json = nlohmann::json::parse(line, nullptr, false);
      // A line cut short by a crash is dropped as well.
      if (json.is_object() && json.value("step", first_step) < first_step) kept += line + "\n";
    }
  }
  AtomicFile file(path);
  file.write(kept);
  file.commit();
  file_.open(path, std::ios::app);
  require(file_.good(), "log", "cannot write {}", path.string());
}

void RunLog::append(const nlohmann::ordered_json& line) {
  file_ << line.dump() << '\n' << std::flush;
  require(file_.good(), "log", "cannot write {}", path_.string());
}

}  // namespace dino
