#include "visualize/report/film_files.h"

#include "engine/files.h"
#include "kernels/common/error.h"
#include "models/json.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <system_error>

namespace dino {
namespace {

using Json = nlohmann::json;

Json read_json(const std::filesystem::path& path) {
  try {
    return parse_json(read_text_file(path, kMostTextBytes));
  } catch (const Error&) {
    return Json::value_t::discarded;
  }
}

FilmPicture to_picture(const Json& json) {
  const auto text = [&](const char* key) {
    const auto at = json.find(key);
    return at != json.end() && at->is_string() ? at->get<std::string>() : std::string();
  };
  const auto similarity = json.find("similarity");
  return {text("name"), text("class"),
          similarity != json.end() && similarity->is_number() ? similarity->get<double>() : 1.0};
}

std::vector<FilmPicture> to_pictures(const Json& json) {
  std::vector<FilmPicture> pictures;
  if (!json.is_array()) return pictures;
  for (const Json& picture : json) {
    if (picture.is_object()) pictures.push_back(to_picture(picture));
  }
  return pictures;
}

}  // namespace

std::filesystem::path film_file(const std::filesystem::path& folder, const std::string& kind, std::int64_t epochs,
                                const std::string& extension) {
  return folder / fmt::format("{}_{:04}.{}", kind, epochs, extension);
}

std::vector<FilmFrame> film_frames(const std::filesystem::path& folder, const std::string& kind,
                                   const std::string& extension, std::size_t limit) {
  std::vector<FilmFrame> frames;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const std::string begin = kind + "_", end = "." + extension;
    if (!name.starts_with(begin) || !name.ends_with(end) || name.size() <= begin.size() + end.size()) continue;
    const std::string digits = name.substr(begin.size(), name.size() - begin.size() - end.size());
    if (digits.size() > 9 || digits.find_first_not_of("0123456789") != std::string::npos) continue;
    frames.push_back({std::stoll(digits), entry.path()});
  }
  std::sort(frames.begin(), frames.end(), [](const FilmFrame& a, const FilmFrame& b) { return a.epochs < b.epochs; });
  if (limit < 2 || frames.size() <= limit) return frames;
  std::vector<FilmFrame> chosen;
  for (std::size_t i = 0; i < limit; ++i) chosen.push_back(frames[i * (frames.size() - 1) / (limit - 1)]);
  return chosen;
}

std::vector<FilmPicture> film_pictures(const std::filesystem::path& folder) {
  const Json json = read_json(folder / "film.json");
  return json.is_object() && json.contains("pictures") ? to_pictures(json["pictures"]) : std::vector<FilmPicture>();
}

std::vector<std::vector<FilmPicture>> film_neighbours(const std::filesystem::path& file) {
  std::vector<std::vector<FilmPicture>> rows;
  const Json json = read_json(file);
  if (!json.is_object() || !json.contains("rows") || !json["rows"].is_array()) return rows;
  for (const Json& row : json["rows"]) rows.push_back(to_pictures(row));
  return rows;
}

}  // namespace dino
