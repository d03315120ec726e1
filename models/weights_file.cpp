#include "models/weights_file.h"

#include "models/hugging_face.h"
#include "models/weight_names.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace dino {
namespace {

constexpr const char* kWhere = "weights";
constexpr std::int64_t kUsualHeadWidth = 64;

// Of each kind of misfit: how many the message names, and how many the list behind it.
constexpr std::size_t kNamed = 3;
constexpr std::size_t kListed = 40;

/// `a, b, c and 4 more`
std::string named(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), kNamed); ++i) text += (i > 0 ? ", " : "") + names[i];
  if (names.size() > kNamed) text += fmt::format(" and {} more", names.size() - kNamed);
  return text;
}

std::optional<int> parse_int(const std::string& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// The shape of `parts` tensors of one shape below each other.
Shape stacked(const Shape& shape, std::size_t parts) {
  if (parts == 1) return shape;
  std::vector<std::int64_t> extents(shape.extents().begin(), shape.extents().end());
  extents[0] *= static_cast<std::int64_t>(parts);
  return Shape(std::span<const std::int64_t>(extents));
}

}  // namespace

WeightsFile read_weights(const std::filesystem::path& path, const WeightsOptions& options) {
  WeightsFile file;
  file.path_ = path;
  file.allow_unexpected_ = options.allow_unexpected;
  file.source_ = open_tensors(path);
  file.files_ = file.source_->files();
  file.collect(options);
  file.derive_config(options);
  return file;
}

void WeightsFile::collect(const WeightsOptions& options) {
  const std::string_view wanted = options.network == Network::teacher ? "teacher." : "student.";
  const auto& stored = source_->tensors();
  const auto in_network = [&](std::string_view network) {
    return std::any_of(stored.begin(), stored.end(),
                       [&](const StoredTensor& t) { return t.name.starts_with(network); });
  };
  const bool has_networks = in_network("teacher.") || in_network("student.");
  require(!has_networks || in_network(wanted), kWhere, "{} holds no {} network; try the other one", path_.string(),
          wanted.substr(0, wanted.size() - 1));

  for (std::size_t i = 0; i < stored.size(); ++i) {
    std::string_view name = stored[i].name;
    if (has_networks) {
      if (!name.starts_with(wanted)) {
        left_out_.push_back(stored[i].name);
        continue;
      }
      name.remove_prefix(wanted.size());
    }
    const WeightName known = canonical_weight_name(name);
    if (known.name.empty()) {
      left_out_.push_back(stored[i].name);
      continue;
    }
    Entry& entry = tensors_[known.name];
    require(known.part_count == 1 || stored[i].shape.rank() >= 1, kWhere, "{}: {} is a scalar", path_.string(),
            stored[i].name);
    if (entry.parts.empty()) {
      entry.shape = stacked(stored[i].shape, known.part_count);
      entry.parts.assign(known.part_count, stored.size());
    }
    require(entry.parts.size() == known.part_count && entry.parts[known.part] == stored.size(), kWhere,
            "{} holds {} twice", path_.string(), known.name);
    require(stacked(stored[i].shape, known.part_count) == entry.shape, kWhere, "{}: the parts of {} differ in shape",
            path_.string(), known.name);
    entry.parts[known.part] = i;
  }
  for (const auto& [name, entry] : tensors_) {
    require(std::find(entry.parts.begin(), entry.parts.end(), stored.size()) == entry.parts.end(), kWhere,
            "{} holds only a part of {}", path_.string(), name);
  }
}

void WeightsFile::derive_config(const WeightsOptions& options) {
  const auto shape_of = [&](const std::string& name, int rank) {
    const auto at = tensors_.find("backbone." + name);
    require(at != tensors_.end(), kWhere, "{} holds no vision transformer: it has no tensor {}", path_.string(), name);
    require(at->second.shape.rank() == rank, kWhere, "{}: {} has shape {}; expected {} dimensions", path_.string(),
            name, at->second.shape.to_string(), rank);
    return at->second.shape;
  };
  // Extents become ints; nothing a transformer has comes near this.
  constexpr std::int64_t kLargest = 1 << 24;
  const auto to_int = [&](std::int64_t extent, const char* what) {
    require(extent >= 1 && extent <= kLargest, kWhere, "{}: the {} is {}", path_.string(), what, extent);
    return static_cast<int>(extent);
  };

  config_.embed_dim = to_int(shape_of("cls_token", 3)[2], "width");
  config_.patch_px = to_int(shape_of("patch_embed.proj.weight", 4)[3], "patch size");
  const std::int64_t positions = to_int(shape_of("pos_embed", 3)[1], "number of positions") - 1;
  const auto grid = static_cast<std::int64_t>(std::lround(std::sqrt(static_cast<double>(positions))));
  require(grid >= 1 && grid * grid == positions, kWhere,
          "{}: pos_embed has {} positions besides CLS, which is no square", path_.string(), positions);
  config_.image_px = to_int(grid * config_.patch_px, "image size");
  config_.depth = 0;
  while (tensors_.contains(fmt::format("backbone.blocks.{}.norm1.weight", config_.depth))) ++config_.depth;
  require(config_.depth >= 1, kWhere, "{} holds no block of a vision transformer", path_.string());
  config_.mlp_ratio =
      static_cast<double>(to_int(shape_of("blocks.0.mlp.fc1.weight", 2)[0], "width of the MLP")) / config_.embed_dim;
  config_.qkv_bias = tensors_.contains("backbone.blocks.0.attn.qkv.bias");

  std::optional<int> heads = options.heads;
  const auto given = source_->metadata().find("num_heads");
  if (!heads && given != source_->metadata().end()) {
    heads = parse_int(given->second);
    require(heads.has_value(), kWhere, "{}: the metadata num_heads is not a number: {}", path_.string(), given->second);
  }
  std::optional<HuggingFaceConfig> beside;
  std::error_code none;
  const std::filesystem::path beside_path =
      (std::filesystem::is_directory(path_, none) ? path_ : path_.parent_path()) / "config.json";
  const bool hugging_face =
      std::any_of(source_->tensors().begin(), source_->tensors().end(),
                  [](const StoredTensor& t) { return t.name.ends_with("embeddings.position_embeddings"); });
  if (hugging_face && std::filesystem::exists(beside_path, none)) {
    beside = HuggingFaceConfig::read(beside_path);
    files_.push_back(beside_path);
    if (options.heads) beside->num_attention_heads = {};
    if (!heads) heads = beside->num_attention_heads;
  }
  if (!heads) heads = options.default_heads;
  if (!heads) {
    require(config_.embed_dim % kUsualHeadWidth == 0, kWhere,
            "{} does not say how many attention heads it has, and its width {} is no multiple of {}; try metadata "
            "num_heads, --heads, or dino_cuda convert with it",
            path_.string(), config_.embed_dim, kUsualHeadWidth);
    heads = config_.embed_dim / static_cast<int>(kUsualHeadWidth);
  }
  config_.heads = *heads;
  config_.check();
  if (beside) beside->require_agrees(config_, beside_path);
}

std::vector<std::string> WeightsFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : tensors_) names.push_back(name);
  return names;
}

Shape WeightsFile::shape(const std::string& name) const {
  const auto at = tensors_.find(name);
  require(at != tensors_.end(), kWhere, "{} has no tensor {}", path_.string(), name);
  return at->second.shape;
}

DType WeightsFile::stored_dtype(const std::string& name) const {
  const auto at = tensors_.find(name);
  require(at != tensors_.end(), kWhere, "{} has no tensor {}", path_.string(), name);
  return source_->tensors()[at->second.parts[0]].dtype;
}

std::vector<float> WeightsFile::read(const std::string& name) const {
  std::vector<float> values(static_cast<std::size_t>(shape(name).size()));
  const Entry& entry = tensors_.at(name);
  const std::size_t part = values.size() / entry.parts.size();
  for (std::size_t i = 0; i < entry.parts.size(); ++i) {
    source_->read(entry.parts[i], std::span(values).subspan(i * part, part));
  }
  return values;
}

void WeightsFile::require_fit(const ParameterLayout& layout, std::string_view prefix) const {
  const auto part_of = [](std::string_view name) { return name.substr(0, name.find('.')); };
  std::vector<std::string> missing, misshaped, unexpected, parts;
  for (const ParameterInfo& info : layout.infos()) {
    if (!info.name.starts_with(prefix)) continue;
    parts.emplace_back(part_of(info.name));
    const auto at = tensors_.find(info.name);
    if (at == tensors_.end()) {
      missing.push_back(fmt::format("{} {}", info.name, info.shape.to_string()));
    } else if (at->second.shape != info.shape) {
      misshaped.push_back(
          fmt::format("{} (got {}, expected {})", info.name, at->second.shape.to_string(), info.shape.to_string()));
    }
  }
  require(!parts.empty(), kWhere, "the network has no parameters that start with {}", prefix);
  for (const auto& [name, entry] : tensors_) {
    const bool concerned =
        name.starts_with(prefix) && std::find(parts.begin(), parts.end(), part_of(name)) != parts.end();
    // What batch norm has counted is never used again (see DinoHead).
    const bool statistics =
        name.ends_with(".running_mean") || name.ends_with(".running_var") || name.ends_with(".num_batches_tracked");
    if (concerned && !statistics && !allow_unexpected_ && !layout.find(name)) {
      unexpected.push_back(fmt::format("{} {}", name, entry.shape.to_string()));
    }
  }
  std::string text;
  std::vector<std::string> lines;
  const auto report = [&](const char* kind, const std::vector<std::string>& tensors) {
    if (tensors.empty()) return;
    text += fmt::format("; {}: {}", kind, named(tensors));
    for (std::size_t i = 0; i < std::min(tensors.size(), kListed); ++i)
      lines.push_back(fmt::format("{:<18}{}", kind, tensors[i]));
    if (tensors.size() > kListed) lines.push_back(fmt::format("{:<18}… and {} more", kind, tensors.size() - kListed));
  };
  report("missing", missing);
  report("of another shape", misshaped);
  report("unexpected", unexpected);
  if (text.empty()) return;
  if (missing.empty() && misshaped.empty()) text += "; try --allow-unexpected, or dino_cuda convert with it";
  if (std::max({missing.size(), misshaped.size(), unexpected.size()}) <= kNamed) lines.clear();
  throw WeightsMismatch(fmt::format("{} does not fit the network{}", path_.string(), text), std::move(lines));
}

void WeightsFile::load(ParameterStore& store, std::string_view prefix) const {
  require_fit(store.layout, prefix);
  for (const ParameterId id : store.layout.ids()) {
    const ParameterInfo& info = store.layout[id];
    if (!info.name.starts_with(prefix)) continue;
    const std::vector<float> values = read(info.name);
    const ConstArray host(values.data(), info.shape);
    for (const Tensor* flat : {&store.student, &store.teacher}) {
      if (!*flat) continue;
      Tensor window = store.window(*flat, id);
      store.context.copy_from_host(host, window);
    }
  }
  store.refresh_working_copies();
}

}  // namespace dino
