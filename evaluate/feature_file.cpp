#include "evaluate/feature_file.h"

#include "engine/files.h"
#include "engine/text.h"
#include "models/json.h"
#include "models/safetensors.h"

#include <fmt/format.h>

#include <iterator>
#include <limits>
#include <map>
#include <string_view>
#include <utility>

namespace dino {
namespace {

constexpr const char* kWhere = "features";
constexpr const char* kPaths = "paths";
constexpr const char* kEscapedPaths = "escaped_paths";
constexpr const char* kEscapedWeights = "weights_escaped";
constexpr std::size_t kMostPathBytesInMetadata = std::size_t{16} << 20;

/// RFC 4180: quoted where it holds a comma, a quote or the end of a line.
std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string class_of(const NamedFeatures& features, std::size_t row) {
  const std::int32_t label = features.table.labels[row];
  if (label < 0 || static_cast<std::size_t>(label) >= features.class_names.size()) return {};
  return features.class_names[static_cast<std::size_t>(label)];
}

/// path,label,class, and the row's numbers where they are wanted.
void write_csv(const std::filesystem::path& path, const NamedFeatures& features, bool with_values) {
  AtomicFile file(path);
  const auto width = static_cast<std::size_t>(features.table.width);
  std::string line = "path,label,class";
  for (std::size_t c = 0; with_values && c < width; ++c) line += fmt::format(",f{}", c);
  file.write(line + "\n");
  for (std::size_t row = 0; row < features.names.size(); ++row) {
    line = fmt::format("{},{},{}", csv_field(escaped_bytes(features.names[row])), features.table.labels[row],
                       csv_field(escaped_bytes(class_of(features, row))));
    for (std::size_t c = 0; with_values && c < width; ++c)
      fmt::format_to(std::back_inserter(line), ",{}", features.table.values[row * width + c]);
    file.write(line + "\n");
  }
  file.commit();
}

/// Source: numpy.lib.format, version 1.0: magic, length of the header, a Python dictionary padded to 64 bytes, data.
void write_npy(const std::filesystem::path& path, const FeatureTable& table) {
  std::string header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", table.rows(), table.width);
  constexpr std::size_t kPrefixBytes = 10;
  header.append(63 - (kPrefixBytes + header.size()) % 64, ' ');
  header += '\n';
  AtomicFile file(path);
  file.write(std::string_view("\x93NUMPY\x01\x00", 8));
  const char length[] = {static_cast<char>(header.size() & 0xff), static_cast<char>(header.size() >> 8)};
  file.write(std::string_view(length, 2));
  file.write(header);
  file.write(std::as_bytes(std::span(table.values)));
  file.commit();
}

void write_tensors(const std::filesystem::path& path, const NamedFeatures& features) {
  const FeatureTable& table = features.table;
  const FeatureOptions& options = features.recipe.options;
  std::vector<NamedArray> arrays{{"features", table.array()}};
  const std::vector<std::int64_t> labels(table.labels.begin(), table.labels.end());
  if (!features.class_names.empty()) arrays.push_back({"labels", ConstArray(labels.data(), Shape{table.rows()})});
  nlohmann::ordered_json recipe = {{"weights", features.recipe.weights},
                                   {"network", features.recipe.network},
                                   {"fingerprint", features.recipe.fingerprint},
                                   {"crop_px", options.crop_px},
                                   {"short_side_px", options.short_side_px},
                                   {"blocks", options.kind.blocks},
                                   {"average_patches", options.kind.average_patches},
                                   {"normalized", options.normalized}};
  if (!is_utf8(features.recipe.weights)) recipe[kEscapedWeights] = true;
  std::map<std::string, std::string> metadata = {
      {"class_names", json_text(nlohmann::ordered_json(features.class_names))}, {"recipe", json_text(recipe)}};
  std::vector<std::size_t> escaped;
  for (std::size_t row = 0; row < features.names.size(); ++row) {
    if (!is_utf8(features.names[row])) escaped.push_back(row);
  }
  if (!escaped.empty()) metadata[kEscapedPaths] = json_text(nlohmann::ordered_json(escaped));
  std::string paths = json_text(nlohmann::ordered_json(features.names));
  if (paths.size() <= kMostPathBytesInMetadata) {
    metadata[kPaths] = std::move(paths);
  } else {
    arrays.push_back({kPaths, ConstArray(reinterpret_cast<const std::uint8_t*>(paths.data()),
                                         Shape{static_cast<std::int64_t>(paths.size())})});
  }
  write_safetensors(path, arrays, metadata);
}

/// The paths as JSON, wherever they stand.
std::string_view paths_of(const SafetensorsFile& file) {
  if (!file.contains(kPaths)) return file.metadata(kPaths);
  const ConstArray paths = file[kPaths];
  require(paths.dtype() == DType::uint8, kWhere, "the paths are {}, expected uint8", name_of(paths.dtype()));
  return {reinterpret_cast<const char*>(paths.as<std::uint8_t>()), static_cast<std::size_t>(paths.size())};
}

}  // namespace

void check_feature_path(const std::filesystem::path& path) {
  const std::string extension = path.extension().string();
  require(extension == ".safetensors" || extension == ".npy" || extension == ".csv", kWhere,
          "cannot tell the format of {}; got extension {}, expected .safetensors, .npy or .csv", path.string(),
          extension.empty() ? "none" : extension);
}

std::vector<std::filesystem::path> feature_files(const std::filesystem::path& path) {
  if (path.extension() != ".npy") return {path};
  std::filesystem::path beside = path;
  beside.replace_extension(".csv");
  return {path, beside};
}

std::vector<std::filesystem::path> write_features(const std::filesystem::path& path, const NamedFeatures& features) {
  check_feature_path(path);
  require(static_cast<std::int64_t>(features.names.size()) == features.table.rows(), kWhere, "got {} names for {} rows",
          features.names.size(), features.table.rows());
  if (path.extension() == ".csv") {
    write_csv(path, features, true);
    return {path};
  }
  if (path.extension() == ".safetensors") {
    write_tensors(path, features);
    return {path};
  }
  std::vector<std::filesystem::path> files = feature_files(path);
  write_npy(files[0], features.table);
  write_csv(files[1], features, false);
  return files;
}

NamedFeatures read_features(const std::filesystem::path& path) {
  require(path.extension() != ".npy" && path.extension() != ".csv", kWhere,
          "{} is for other programs, expected a .safetensors; try `dino_cuda features DIR --out FILE.safetensors`",
          path.string());
  const SafetensorsFile file = SafetensorsFile::read(path);
  require(file.contains("features") && (file.contains(kPaths) || file.metadata().contains(kPaths)) &&
              file.metadata().contains("recipe"),
          kWhere,
          "{} holds no features with paths; try a file written by `dino_cuda features DIR --out FILE.safetensors`",
          path.string());
  NamedFeatures features;
  const ConstArray values = file["features"];
  require(values.dtype() == DType::float32 && values.shape().rank() == 2 && values.extent(0) >= 1, kWhere,
          "the features of {} are {} {}, expected (n, C) float32", path.string(), name_of(values.dtype()),
          values.shape().to_string());
  const auto rows = static_cast<std::size_t>(values.extent(0));
  features.table.width = values.extent(1);
  features.table.values.assign(values.as<float>(), values.as<float>() + values.size());
  features.table.labels.assign(rows, -1);
  if (file.contains("labels")) {
    const ConstArray labels = file["labels"];
    require_array(labels, DType::int64, Shape{values.extent(0)}, kWhere, "labels");
    for (std::size_t i = 0; i < rows; ++i)
      features.table.labels[i] = static_cast<std::int32_t>(labels.as<std::int64_t>()[i]);
  }
  for (std::size_t i = 0; i < rows; ++i) features.table.samples.push_back(static_cast<std::int64_t>(i));
  try {
    features.names = parse_json(paths_of(file)).get<std::vector<std::string>>();
    features.class_names = parse_json(file.metadata("class_names")).get<std::vector<std::string>>();
    const auto recipe = parse_json(file.metadata("recipe"));
    recipe.at("weights").get_to(features.recipe.weights);
    recipe.at("network").get_to(features.recipe.network);
    recipe.at("fingerprint").get_to(features.recipe.fingerprint);
    if (recipe.value(kEscapedWeights, false)) features.recipe.weights = bytes_of_escaped(features.recipe.weights);
    if (file.metadata().contains(kEscapedPaths)) {
      for (const nlohmann::json& value : parse_json(file.metadata(kEscapedPaths))) {
        const auto row = whole_number(value, 0, static_cast<std::int64_t>(features.names.size()) - 1);
        require(row.has_value(), kWhere, "the metadata of {} is damaged: {} has {}; expected rows of its {} paths",
                path.string(), kEscapedPaths, json_text(value).substr(0, 40), features.names.size());
        std::string& name = features.names[static_cast<std::size_t>(*row)];
        name = bytes_of_escaped(name);
      }
    }
    FeatureOptions& options = features.recipe.options;
    const auto size = [&](const char* key) {
      const auto number = whole_number(recipe.at(key), 0, std::numeric_limits<int>::max());
      require(number.has_value(), kWhere,
              "the metadata of {} is damaged: {} is {}; expected a whole number of at least 0", path.string(), key,
              json_text(recipe.at(key)).substr(0, 40));
      return static_cast<int>(*number);
    };
    options.crop_px = size("crop_px");
    options.short_side_px = size("short_side_px");
    options.kind.blocks = size("blocks");
    recipe.at("average_patches").get_to(options.kind.average_patches);
    recipe.at("normalized").get_to(options.normalized);
  } catch (const nlohmann::json::exception& error) {
    fail(kWhere, "the metadata of {} is damaged: {}", path.string(), error.what());
  }
  require(features.names.size() == rows, kWhere, "{} has {} paths for {} rows", path.string(), features.names.size(),
          rows);
  return features;
}

}  // namespace dino
