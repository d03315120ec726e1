#include "visualize/picture_names.h"

#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <set>
#include <utility>

namespace dino {
namespace {

constexpr std::size_t kMaxBytes = 200;  // before a number

std::string as_name(std::string text) {
  for (char& c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f || c == '/') c = '_';
  }
  if (text.size() > kMaxBytes) {
    std::size_t end = kMaxBytes;
    // Not within a character of UTF-8.
    while (end > kMaxBytes - 3 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
    text.resize(end);
  }
  return text.empty() ? "_" : text;
}

}  // namespace

std::vector<std::string> picture_names(const std::vector<std::string>& pictures) {
  std::map<std::string, int> uses;
  for (const std::string& picture : pictures) ++uses[std::filesystem::path(picture).stem().string()];
  std::set<std::string> taken;
  std::vector<std::string> names;
  for (const std::string& picture : pictures) {
    const std::filesystem::path path(picture);
    const std::string folder = path.parent_path().filename().string();
    std::string name = path.stem().string();
    if (uses[name] > 1 && !folder.empty()) name = folder + "_" + name;
    name = as_name(std::move(name));
    std::string unique = name;
    for (int n = 2; !taken.insert(unique).second; ++n) unique = fmt::format("{}_{}", name, n);
    names.push_back(unique);
  }
  return names;
}

}  // namespace dino
