#include "data/broken_image_list.h"

#include "engine/files.h"
#include "engine/text.h"
#include "models/json.h"

#include <fstream>
#include <functional>
#include <optional>
#include <utility>

namespace dino {

BrokenImageList::BrokenImageList(std::filesystem::path path, bool keep) : path_(std::move(path)) {
  if (!file_exists(path_)) return;
  std::string kept;
  std::optional<LineReader> lines;
  if (keep) lines.emplace(path_);
  for (std::string line; lines && lines->next(line);) {
    // A line cut short by a crash is dropped.
    const nlohmann::json json = parse_json(line);
    if (lines->is_cut() || !json.is_object() || !json.contains("name") || !json["name"].is_string()) continue;
    listed_.insert(std::hash<std::string>{}(json["name"].get<std::string>()));
    kept += line + "\n";
  }
  if (kept.empty()) {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
    return;
  }
  AtomicFile rewritten(path_);
  rewritten.write(kept);
  rewritten.commit();
}

void BrokenImageList::add(const BrokenImage& image) {
  const std::string name = printable(image.name);
  if (!listed_.insert(std::hash<std::string>{}(name)).second) return;
  const nlohmann::ordered_json line{{"picture", image.index}, {"name", name}, {"reason", printable(image.reason)}};
  std::ofstream(path_, std::ios::app) << json_text(line) + "\n";
}

}  // namespace dino
