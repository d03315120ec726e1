#include "models/safetensors.h"

#include "engine/checksum.h"
#include "engine/files.h"
#include "models/json.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>

namespace dino {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

constexpr const char* kWhere = "safetensors";

struct TypeName {
  const char* name;
  DType dtype;
};
constexpr TypeName kTypeNames[] = {{"F32", DType::float32}, {"BF16", DType::bfloat16}, {"F16", DType::float16},
                                   {"F64", DType::float64}, {"U8", DType::uint8},      {"I32", DType::int32},
                                   {"I64", DType::int64}};

std::optional<DType> dtype_named(const std::string& name) {
  for (const TypeName& type : kTypeNames) {
    if (name == type.name) return type.dtype;
  }
  return std::nullopt;
}

std::string name_in_file(DType dtype) {
  for (const TypeName& type : kTypeNames) {
    if (dtype == type.dtype) return type.name;
  }
  return "";
}

/// Number of bytes of an array of these extents, or nothing where it would not fit into `limit`.
std::optional<std::uint64_t> array_bytes(const std::vector<std::uint64_t>& extents, DType dtype, std::uint64_t limit) {
  const bool none = std::find(extents.begin(), extents.end(), 0U) != extents.end();
  // Bounded without the zeros too: nobody who multiplies the extents shall overflow.
  if (none) limit = std::numeric_limits<std::int64_t>::max();
  std::uint64_t bytes = size_of(dtype);
  for (const std::uint64_t extent : extents) {
    if (extent == 0) continue;
    if (extent > limit / bytes) return std::nullopt;
    bytes *= extent;
  }
  return none ? 0 : bytes;
}

constexpr const char* kChecksumKey = "checksum";

std::string checksum_text(std::uint64_t value) { return fmt::format("xxh64:{:016x}", value); }

/// Where the checksum's text stands in a header. Within other texts the quotation marks around it would be escaped.
std::optional<std::size_t> checksum_position(const std::string& header) {
  const std::string before = fmt::format("\"{}\":\"", kChecksumKey);
  const std::size_t at = header.find(before + "xxh64:");
  if (at == std::string::npos || at + before.size() + checksum_text(0).size() > header.size()) return std::nullopt;
  return at + before.size();
}

/// Throws Error unless the file's bytes are those that its checksum, if it has one, was made of. `add_data` adds what
/// stands behind the header.
template <typename AddData>
void check_sum(const std::filesystem::path& path, std::string header, const AddData& add_data) {
  const auto at = checksum_position(header);
  if (!at) return;
  const std::string zeros = checksum_text(0);
  const std::string claimed = header.substr(*at, zeros.size());
  header.replace(*at, zeros.size(), zeros);
  const std::uint64_t header_bytes = header.size();
  Checksum sum;
  sum.add(std::as_bytes(std::span(&header_bytes, 1)));
  sum.add(std::as_bytes(std::span(header)));
  add_data(sum);
  require(claimed == checksum_text(sum.value()), "safetensors",
          "{} is not what was written: its checksum is {}, that of its content {}", path.string(), claimed,
          checksum_text(sum.value()));
}

/// A tensor as the header describes it, at these bytes of the data.
struct Entry {
  std::string name;
  DType dtype;
  Shape shape;
  std::uint64_t begin, end;
};

struct Header {
  std::map<std::string, std::string> metadata;
  std::vector<Entry> entries;  // in the order of their data
};

/// Throws Error where the header breaks a promise of the format.
Header parse_header(const std::filesystem::path& path, const std::string& text, std::uint64_t data_bytes) {
  const nlohmann::json json = parse_json(text);
  require(json.is_object(), kWhere, "{} has a header that is not a JSON object", path.string());
  Header header;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      require(value.is_object(), kWhere, "{} has metadata that is not an object", path.string());
      for (const auto& [key, entry] : value.items()) {
        require(entry.is_string(), kWhere, "{} has metadata {} that is not a string", path.string(), key);
        header.metadata[key] = entry.get<std::string>();
      }
      continue;
    }
    const auto is_sizes = [](const nlohmann::json& list) {
      return list.is_array() &&
             std::all_of(list.begin(), list.end(), [](const nlohmann::json& x) { return x.is_number_unsigned(); });
    };
    require(value.is_object() && value.contains("dtype") && value["dtype"].is_string() && value.contains("shape") &&
                is_sizes(value["shape"]) && value.contains("data_offsets") && is_sizes(value["data_offsets"]) &&
                value["data_offsets"].size() == 2,
            kWhere, "{}: the description of tensor {} is malformed", path.string(), name);
    const auto dtype = dtype_named(value["dtype"].get<std::string>());
    require(dtype.has_value(), kWhere, "{}: tensor {} has the unsupported element type {}", path.string(), name,
            value["dtype"].get<std::string>());
    const auto extents = value["shape"].get<std::vector<std::uint64_t>>();
    const auto offsets = value["data_offsets"].get<std::vector<std::uint64_t>>();
    require(extents.size() <= Shape::kMaxRank, kWhere, "{}: tensor {} has {} dimensions; at most {} are supported",
            path.string(), name, extents.size(), Shape::kMaxRank);
    const auto bytes = array_bytes(extents, *dtype, data_bytes);
    require(
        bytes.has_value() && offsets[0] <= offsets[1] && offsets[1] <= data_bytes && offsets[1] - offsets[0] == *bytes,
        kWhere, "{}: tensor {} lies outside the data or disagrees with its shape; the file may be truncated",
        path.string(), name);
    require(offsets[0] % size_of(*dtype) == 0, kWhere, "{}: tensor {} is not aligned to its element type",
            path.string(), name);
    const std::vector<std::int64_t> signed_extents(extents.begin(), extents.end());
    header.entries.push_back({name, *dtype, Shape(std::span(signed_extents)), offsets[0], offsets[1]});
  }
  std::sort(header.entries.begin(), header.entries.end(),
            [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  std::uint64_t end = 0;
  for (const Entry& entry : header.entries) {
    require(entry.begin >= end, kWhere, "{}: tensor {} overlaps another one", path.string(), entry.name);
    require(entry.begin == end, kWhere, "{}: the {} bytes before tensor {} belong to none; is a name given twice?",
            path.string(), entry.begin - end, entry.name);
    end = entry.end;
  }
  require(end == data_bytes, kWhere, "{}: the last {} bytes belong to no tensor; is a name given twice?", path.string(),
          data_bytes - end);
  return header;
}

/// A file of which the header has been read.
struct OpenFile {
  std::ifstream stream;
  std::string header;
  std::uint64_t data_bytes = 0;

  std::uint64_t data_begin() const { return 8 + header.size(); }
};

OpenFile open_file(const std::filesystem::path& path) {
  constexpr std::uint64_t kMaxHeaderBytes = std::uint64_t{100} << 20;
  std::error_code error;
  const bool has_size = std::filesystem::file_size(path, error) != std::uintmax_t(-1);
  require(has_size, kWhere, "cannot read {}: {}", path.string(), error.message());

  // The size of what was opened: a run may put another file in its place meanwhile.
  OpenFile file;
  file.stream.open(path, std::ios::binary | std::ios::ate);
  require(file.stream.is_open(), kWhere, "cannot read {}: {}", path.string(), std::strerror(errno));
  const auto end = static_cast<std::int64_t>(file.stream.tellg());
  require(end >= 0, kWhere, "cannot read {}: it has no end", path.string());
  const auto file_bytes = static_cast<std::uint64_t>(end);
  file.stream.seekg(0);
  require(file_bytes >= 8, kWhere, "{} is too short to be a safetensors file: {} bytes", path.string(), file_bytes);

  std::uint64_t header_bytes = 0;
  file.stream.read(reinterpret_cast<char*>(&header_bytes), 8);
  require(file.stream.good() && header_bytes <= std::min(file_bytes - 8, kMaxHeaderBytes), kWhere,
          "{} is not a safetensors file or is truncated: its header claims {} bytes, the file has {}", path.string(),
          header_bytes, file_bytes);
  file.header.resize(header_bytes);
  file.stream.read(file.header.data(), static_cast<std::streamsize>(header_bytes));
  file.data_bytes = file_bytes - 8 - header_bytes;
  return file;
}

void read_bytes(std::ifstream& stream, const std::filesystem::path& path, std::span<std::byte> to) {
  stream.read(reinterpret_cast<char*>(to.data()), static_cast<std::streamsize>(to.size()));
  require(stream.good(), kWhere, "cannot read {}: the file ended early", path.string());
}

}  // namespace

SafetensorsFile SafetensorsFile::read(const std::filesystem::path& path) {
  OpenFile file = open_file(path);
  AlignedBuffer data(file.data_bytes);
  read_bytes(file.stream, path, {data.data(), data.size()});
  return SafetensorsFile(path, file.header, std::move(data));
}

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> bytes, const std::filesystem::path& name) {
  std::uint64_t header_bytes = 0;
  if (bytes.size() >= 8) std::memcpy(&header_bytes, bytes.data(), 8);
  require(bytes.size() >= 8 && header_bytes <= bytes.size() - 8, kWhere,
          "{} is not a safetensors file or is truncated: its header claims {} bytes, there are {}", name.string(),
          header_bytes, bytes.size());
  const std::string header(reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes);
  const std::span<const std::byte> rest = bytes.subspan(8 + header_bytes);
  AlignedBuffer data(rest.size());
  std::copy(rest.begin(), rest.end(), data.data());
  return SafetensorsFile(name, header, std::move(data));
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path, const std::string& header, AlignedBuffer data)
    : path_(path), bytes_(std::move(data)) {
  check_sum(path, header, [&](Checksum& sum) { sum.add({bytes_.data(), bytes_.size()}); });
  Header parsed = parse_header(path, header, bytes_.size());
  metadata_ = std::move(parsed.metadata);
  for (const Entry& entry : parsed.entries) {
    names_.push_back(entry.name);
    arrays_[entry.name] = ConstArray(bytes_.data() + entry.begin, entry.dtype, entry.shape);
  }
}

const std::string& SafetensorsFile::metadata(const std::string& key) const {
  const auto at = metadata_.find(key);
  require(at != metadata_.end(), "safetensors", "{} has no metadata {}", path_.string(), key);
  return at->second;
}

ConstArray SafetensorsFile::operator[](const std::string& name) const {
  const auto at = arrays_.find(name);
  require(at != arrays_.end(), "safetensors", "{} has no tensor {}", path_.string(), name);
  return at->second;
}

SafetensorsReader::SafetensorsReader(const std::filesystem::path& path) : path_(path) {
  OpenFile file = open_file(path);
  check_sum(path, file.header, [&](Checksum& sum) {
    constexpr std::uint64_t kPieceBytes = std::uint64_t{1} << 20;
    AlignedBuffer piece(std::min(file.data_bytes, kPieceBytes));
    for (std::uint64_t left = file.data_bytes; left > 0;) {
      const std::span<std::byte> part(piece.data(), std::min(left, kPieceBytes));
      read_bytes(file.stream, path, part);
      sum.add(part);
      left -= part.size();
    }
  });
  Header parsed = parse_header(path, file.header, file.data_bytes);
  metadata_ = std::move(parsed.metadata);
  for (const Entry& entry : parsed.entries) {
    names_.push_back(entry.name);
    tensors_.emplace(entry.name,
                     Tensor{entry.dtype, entry.shape, file.data_begin() + entry.begin, file.data_begin() + entry.end});
  }
  stream_ = std::move(file.stream);
}

const std::string& SafetensorsReader::metadata(const std::string& key) const {
  const auto at = metadata_.find(key);
  require(at != metadata_.end(), kWhere, "{} has no metadata {}", path_.string(), key);
  return at->second;
}

const SafetensorsReader::Tensor& SafetensorsReader::find(const std::string& name) const {
  const auto at = tensors_.find(name);
  require(at != tensors_.end(), kWhere, "{} has no tensor {}", path_.string(), name);
  return at->second;
}

void SafetensorsReader::read(const std::string& name, std::span<std::byte> to) {
  const Tensor& tensor = find(name);
  require(to.size() == tensor.end - tensor.begin, kWhere, "{}: tensor {} has {} bytes; {} were asked for",
          path_.string(), name, tensor.end - tensor.begin, to.size());
  stream_.clear();
  stream_.seekg(static_cast<std::streamoff>(tensor.begin));
  read_bytes(stream_, path_, to);
}

void write_safetensors(const std::filesystem::path& path, const std::vector<NamedSource>& sources,
                       const std::map<std::string, std::string>& metadata, const SafetensorsOptions& options) {
  // Large element types first, so that every tensor is aligned to its type.
  std::vector<const NamedSource*> ordered;
  for (const NamedSource& source : sources) ordered.push_back(&source);
  std::stable_sort(ordered.begin(), ordered.end(),
                   [](const NamedSource* a, const NamedSource* b) { return size_of(a->dtype) > size_of(b->dtype); });
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  std::map<std::string, std::string> texts = metadata;
  texts.erase(kChecksumKey);  // of the file that the rest comes from
  if (options.checksum) texts[kChecksumKey] = checksum_text(0);
  if (!texts.empty()) json["__metadata__"] = texts;
  std::uint64_t offset = 0;
  for (const NamedSource* source : ordered) {
    require(!json.contains(source->name), "safetensors", "the tensor {} is given twice", source->name);
    const std::uint64_t bytes = static_cast<std::uint64_t>(source->shape.size()) * size_of(source->dtype);
    const auto extents = source->shape.extents();
    json[source->name] = {{"dtype", name_in_file(source->dtype)},
                          {"shape", std::vector<std::int64_t>(extents.begin(), extents.end())},
                          {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string header = json_text(json);
  header.append((8 - header.size() % 8) % 8, ' ');
  const std::uint64_t header_bytes = header.size();

  AtomicFile file(path);
  Checksum sum;
  const auto write = [&](std::span<const std::byte> bytes) {
    if (options.checksum) sum.add(bytes);
    file.write(bytes);
  };
  write(std::as_bytes(std::span(&header_bytes, 1)));
  write(std::as_bytes(std::span(header)));
  for (const NamedSource* source : ordered) {
    const ConstArray array = source->fetch();
    require(array.shape() == source->shape && array.dtype() == source->dtype, "safetensors",
            "the tensor {} is not what was announced", source->name);
    write({static_cast<const std::byte*>(array.data()), array.size_bytes()});
  }
  if (options.checksum) {
    const std::string text = checksum_text(sum.value());
    file.overwrite(sizeof header_bytes + *checksum_position(header), std::as_bytes(std::span(text)));
  }
  file.commit(options.former);
}

void write_safetensors(const std::filesystem::path& path, const std::vector<NamedArray>& arrays,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<NamedSource> sources;
  for (const NamedArray& named : arrays) {
    sources.push_back({named.name, named.array.dtype(), named.array.shape(), [array = named.array] { return array; }});
  }
  write_safetensors(path, sources, metadata);
}

}  // namespace dino
