#include "data/file_dataset.h"
#include "engine/files.h"
#include "kernels/common/error.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <system_error>
#include <unordered_map>

namespace dino {

namespace fs = std::filesystem;

namespace {

// Every number up to the largest label becomes a class. ImageNet-22k has 21,841.
constexpr std::int32_t kMaxLabel = 1 << 20;
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

std::string_view trim_end(std::string_view text) {
  while (!text.empty() && (text.back() == '\r' || text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

/// The number that `text` is, or -1.
std::int32_t parse_label(std::string_view text) {
  std::int32_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value >= 0 && value < kMaxLabel ? value : -1;
}

}  // namespace

std::unique_ptr<Dataset> open_list_file(const fs::path& path, const DecodeOptions& options) {
  std::ifstream file(path, std::ios::binary);
  require(file.good(), "data", "cannot read {}: {}", path.string(), std::strerror(errno));
  std::array<char, 64> start{};
  file.read(start.data(), start.size());
  const auto known = std::as_bytes(std::span(start)).first(static_cast<std::size_t>(file.gcount()));
  require(detect_image_format(known) == ImageFormat::unknown, "data",
          "{} is one picture; expected a folder of pictures or a text file that lists them", path.string());
  const fs::path root = path.parent_path();
  PathList pictures;
  std::unordered_map<std::string, std::int32_t> numbers;  // of the classes, in the order of their first lines
  std::vector<std::string> class_names;
  std::int64_t unnamed = 0;
  std::int64_t line_number = 0;
  LineReader lines(path);
  for (std::string text; lines.next(text);) {
    if (line_number++ == 0) {
      if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
    }
    require(text.find('\0') == std::string::npos, "data",
            "{} is not text; expected a folder of pictures or a text file that lists them; unpack it if it is an "
            "archive, write it as UTF-8 if it is UTF-16",
            path.string());
    require(!lines.is_cut(), "data", "{} line {} is too long; got more than {} bytes, expected one path a line",
            path.string(), line_number, LineReader::kMostBytes);
    const std::string_view line = trim_end(text);
    if (line.empty() || line.front() == '#') continue;
    const std::size_t tab = line.find('\t');
    const std::string_view picture = trim_end(line.substr(0, tab));
    const std::string obstacle = why_no_file(root / picture);
    require(obstacle.empty(), "data", "{} line {}: cannot read {}: {}; expected a picture, relative to the list",
            path.string(), line_number, (root / picture).string(), obstacle);
    if (tab == std::string_view::npos) {
      ++unnamed;
      pictures.add(picture);
      continue;
    }
    const auto [at, added] =
        numbers.emplace(std::string(line.substr(tab + 1)), static_cast<std::int32_t>(class_names.size()));
    if (added) class_names.push_back(at->first);
    pictures.add(picture, at->second);
  }
  require(!pictures.empty(), "data", "{} lists no picture; expected one path a line, or path<tab>class", path.string());
  require(unnamed == 0 || unnamed == pictures.size(), "data",
          "{}: {} of {} pictures have no class; expected all or none", path.string(), unnamed, pictures.size());

  if (unnamed == 0) {
    // Numbers are the labels themselves; names are numbered in sorted order.
    std::vector<std::string> sorted = class_names;
    std::sort(sorted.begin(), sorted.end());
    std::vector<std::int32_t> labels;
    for (const std::string& name : class_names) labels.push_back(parse_label(name));
    const bool by_number = std::find(labels.begin(), labels.end(), -1) == labels.end();
    for (std::size_t i = 0; !by_number && i < labels.size(); ++i) {
      const auto found = std::lower_bound(sorted.begin(), sorted.end(), class_names[i]);
      labels[i] = static_cast<std::int32_t>(found - sorted.begin());
    }
    for (std::int64_t i = 0; i < pictures.size(); ++i)
      pictures.set_label(i, labels[static_cast<std::size_t>(pictures.label(i))]);
    if (by_number) {
      const std::int32_t largest = *std::max_element(labels.begin(), labels.end());
      class_names.clear();
      for (std::int32_t label = 0; label <= largest; ++label) class_names.push_back(std::to_string(label));
    } else {
      class_names = std::move(sorted);
    }
  }
  std::string summary =
      fmt::format("{}: a list of {} pictures, {} classes", path.string(), pictures.size(), class_names.size());
  return std::make_unique<FileDataset>(root, std::move(pictures), std::move(class_names), std::move(summary), options);
}

}  // namespace dino
