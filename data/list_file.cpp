#include "data/file_dataset.h"
#include "engine/files.h"
#include "kernels/common/error.h"

#include <algorithm>
#include <charconv>
#include <system_error>

namespace dino {

namespace fs = std::filesystem;

namespace {

constexpr std::int32_t kMaxLabel = 1 << 24;

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
  const std::string text = read_text_file(path);
  if (const ImageFormat format = detect_image_format(std::as_bytes(std::span(text))); format != ImageFormat::unknown) {
    fail("data", "{} is one picture; expected a folder of pictures or a text file that lists them", path.string());
  }
  require(text.find('\0') == std::string::npos, "data",
          "{} is not text; expected a folder of pictures or a text file that lists them; unpack it if it is an archive",
          path.string());
  const fs::path root = path.parent_path();
  std::vector<FileDataset::Item> items;
  std::vector<std::string> labels;  // one per item; "" where the line names none
  std::int64_t line_number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = trim_end(std::string_view(text).substr(begin, end - begin));
    begin = end + 1;
    ++line_number;
    if (line.empty() || line.front() == '#') continue;
    const std::size_t tab = line.find('\t');
    std::string picture(trim_end(line.substr(0, tab)));
    std::error_code ignored;
    require(fs::is_regular_file(root / picture, ignored), "data",
            "{} line {}: there is no file {}; expected a picture, relative to the list", path.string(), line_number,
            (root / picture).string());
    items.push_back({std::move(picture), -1});
    labels.emplace_back(tab == std::string_view::npos ? std::string_view() : line.substr(tab + 1));
  }
  require(!items.empty(), "data", "{} lists no picture; expected one path a line, or path<tab>class", path.string());
  const auto unnamed = std::count(labels.begin(), labels.end(), "");
  require(unnamed == 0 || unnamed == static_cast<std::ptrdiff_t>(labels.size()), "data",
          "{}: {} of {} pictures have no class; expected all or none", path.string(), unnamed, labels.size());

  std::vector<std::string> class_names;
  if (unnamed == 0) {
    if (std::all_of(labels.begin(), labels.end(), [](const auto& label) { return parse_label(label) >= 0; })) {
      std::int32_t largest = 0;
      for (std::size_t i = 0; i < items.size(); ++i) {
        items[i].label = parse_label(labels[i]);
        largest = std::max(largest, items[i].label);
      }
      for (std::int32_t label = 0; label <= largest; ++label) class_names.push_back(std::to_string(label));
    } else {
      class_names = labels;
      std::sort(class_names.begin(), class_names.end());
      class_names.erase(std::unique(class_names.begin(), class_names.end()), class_names.end());
      for (std::size_t i = 0; i < items.size(); ++i) {
        const auto found = std::lower_bound(class_names.begin(), class_names.end(), labels[i]);
        items[i].label = static_cast<std::int32_t>(found - class_names.begin());
      }
    }
  }
  std::string summary =
      fmt::format("{}: a list of {} pictures, {} classes", path.string(), items.size(), class_names.size());
  return std::make_unique<FileDataset>(root, std::move(items), std::move(class_names), std::move(summary), options);
}

}  // namespace dino
