#include "models/torch_file.h"

#include "models/torch_pickle.h"

#include <zip.h>

#include <algorithm>
#include <fstream>

namespace dino {
namespace {

constexpr const char* kWhere = "pth";
// The pickle of a checkpoint of ViT-B takes 200 kB.
constexpr std::uint64_t kMaxPickleBytes = std::uint64_t{16} << 20;

struct CloseZip {
  void operator()(zip_t* zip) const { zip_discard(zip); }
  void operator()(zip_file_t* file) const { zip_fclose(file); }
};

class TorchZipSource final : public TorchSource {
 public:
  explicit TorchZipSource(const std::filesystem::path& path)
      : TorchSource(path), file_bytes_(std::filesystem::file_size(path)) {
    int code = 0;
    zip_.reset(zip_open(path.c_str(), ZIP_RDONLY, &code));
    if (!zip_) {
      zip_error_t error;
      zip_error_init_with_code(&error, code);
      const std::string reason = zip_error_strerror(&error);
      zip_error_fini(&error);
      fail(kWhere, "cannot open {}: {}; it may be truncated", path.string(), reason);
    }
    constexpr std::string_view kPickle = "data.pkl";
    const zip_int64_t entries = zip_get_num_entries(zip_.get(), 0);
    bool found = false;
    for (zip_int64_t i = 0; i < entries && !found; ++i) {
      const char* text = zip_get_name(zip_.get(), static_cast<zip_uint64_t>(i), 0);
      const std::string_view name = text != nullptr ? text : "";
      if (name != kPickle && !name.ends_with("/data.pkl")) continue;
      folder_ = name.substr(0, name.size() - kPickle.size());
      found = true;
    }
    require(found, kWhere, "{} is a zip file that torch.save did not write: it has no data.pkl", path.string());
    if (zip_name_locate(zip_.get(), (folder_ + "byteorder").c_str(), 0) >= 0) {
      const std::vector<std::byte> order = read_entry("byteorder", 16);
      require(std::string_view(reinterpret_cast<const char*>(order.data()), order.size()) == "little", kWhere,
              "{} was written by a big-endian machine, which is not supported", path.string());
    }
    const std::vector<std::byte> bytes = read_entry("data.pkl", kMaxPickleBytes);
    interpret(Pickle(bytes, fmt::format("{}: {}", kWhere, path.string())));
    // Before anybody takes memory for what the pickle claims.
    for (const auto& [key, info] : storages_) {
      const std::uint64_t size = info.bytes() == 0 ? 0 : entry_size(storage_name(key));
      require(size == info.bytes(), kWhere, "{}: the entry {} has {} bytes, expected {}", path.string(),
              storage_name(key), size, info.bytes());
    }
  }

 private:
  void read_storage(const std::string& key, const StorageInfo&, std::span<std::byte> bytes) override {
    read_entry(storage_name(key), bytes);
  }

  static std::string storage_name(const std::string& key) { return "data/" + key; }

  std::uint64_t entry_size(const std::string& name) const {
    zip_stat_t stat;
    zip_stat_init(&stat);
    const bool known =
        zip_stat(zip_.get(), (folder_ + name).c_str(), 0, &stat) == 0 && (stat.valid & ZIP_STAT_SIZE) != 0;
    require(known, kWhere, "{} has no entry {}", path_.string(), name);
    // Then nothing can grow beyond the size of the file while it is read.
    require((stat.valid & ZIP_STAT_COMP_METHOD) != 0 && stat.comp_method == ZIP_CM_STORE, kWhere,
            "{}: the entry {} is compressed, which torch.save never does; try saving it again", path_.string(), name);
    require(stat.size <= file_bytes_, kWhere, "{}: the entry {} claims {} bytes, the file has {}", path_.string(), name,
            stat.size, file_bytes_);
    return stat.size;
  }

  std::vector<std::byte> read_entry(const std::string& name, std::uint64_t limit) {
    const std::uint64_t size = entry_size(name);
    require(size <= limit, kWhere, "{}: the entry {} has {} bytes; at most {} are expected", path_.string(), name, size,
            limit);
    std::vector<std::byte> bytes(static_cast<std::size_t>(size));
    read_entry(name, bytes);
    return bytes;
  }

  void read_entry(const std::string& name, std::span<std::byte> bytes) {
    const std::unique_ptr<zip_file_t, CloseZip> file(zip_fopen(zip_.get(), (folder_ + name).c_str(), 0));
    require(file != nullptr, kWhere, "{}: cannot open the entry {}: {}", path_.string(), name,
            zip_strerror(zip_.get()));
    std::size_t done = 0;
    while (done < bytes.size()) {
      const zip_int64_t count = zip_fread(file.get(), bytes.data() + done, bytes.size() - done);
      require(count > 0, kWhere, "{}: cannot read the entry {}; the file is truncated or damaged", path_.string(),
              name);
      done += static_cast<std::size_t>(count);
    }
    // torch.serialization.set_crc32_options(False) leaves all checksums at 0.
    zip_stat_t stat;
    zip_stat_init(&stat);
    if (zip_stat(zip_.get(), (folder_ + name).c_str(), 0, &stat) == 0 && (stat.valid & ZIP_STAT_CRC) != 0 &&
        stat.crc == 0) {
      return;
    }
    // The checksum is compared when the end is reached.
    std::byte more{};
    const bool sound = zip_fread(file.get(), &more, 1) == 0;
    require(sound, kWhere, "{}: the entry {} is damaged: {}", path_.string(), name, zip_file_strerror(file.get()));
  }

  std::uint64_t file_bytes_;
  std::unique_ptr<zip_t, CloseZip> zip_;
  std::string folder_;  // in the zip, with its slash
};

class TorchLegacySource final : public TorchSource {
 public:
  explicit TorchLegacySource(const std::filesystem::path& path) : TorchSource(path), stream_(path, std::ios::binary) {
    require(stream_.good(), kWhere, "cannot read {}", path.string());
    file_bytes_ = std::filesystem::file_size(path);
    // Four pickles - magic number, version, system, the object - then one with the keys of the storages.
    std::vector<std::byte> bytes(static_cast<std::size_t>(std::min(file_bytes_, kMaxPickleBytes)));
    stream_.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    std::span<const std::byte> rest(bytes);
    const std::string where = fmt::format("{}: {}", kWhere, path.string());
    const auto next = [&] {
      const std::uint64_t position = bytes.size() - rest.size();
      require(!rest.empty(), kWhere, "{} ends at byte {}, before its tensors", path.string(), position);
      Pickle pickle(rest, where);
      rest = rest.subspan(pickle.size_bytes());
      return pickle;
    };
    constexpr std::string_view kMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);
    const Pickle magic = next();
    require(magic.root().kind == PickleValue::Kind::big_integer && magic.root().text == kMagic, kWhere,
            "{} is a pickle that torch.save did not write", path.string());
    const Pickle version = next();
    require(version.root().kind == PickleValue::Kind::integer && version.root().integer == 1001, kWhere,
            "{} has an unknown version of PyTorch's old format", path.string());
    const Pickle system = next();
    const PickleValue* little = system.find(system.root(), "little_endian");
    require(little != nullptr && little->integer == 1, kWhere,
            "{} was written by a big-endian machine, which is not supported", path.string());
    interpret(next());
    const Pickle keys = next();
    locate_storages(keys, bytes.size() - rest.size());
  }

 private:
  /// The storages follow from `position` in the order of `keys`: 8 bytes number of elements, then the elements.
  void locate_storages(const Pickle& keys, std::uint64_t position) {
    require(keys.root().kind == PickleValue::Kind::list, kWhere, "{} has no list of storages", path_.string());
    for (const PickleValue::Id id : keys.root().items) {
      const std::string& key = keys[id].text;
      const auto at = storages_.find(key);
      require(at != storages_.end(), kWhere, "{}: the storage {} belongs to no tensor that could be understood",
              path_.string(), key);
      std::uint64_t elements = 0;
      stream_.clear();
      stream_.seekg(static_cast<std::streamoff>(position));
      stream_.read(reinterpret_cast<char*>(&elements), sizeof elements);
      position += sizeof elements;
      require(stream_.good() && elements == at->second.elements, kWhere,
              "{}: the storage {} is truncated or of another size", path_.string(), key);
      require(position <= file_bytes_ && at->second.bytes() <= file_bytes_ - position, kWhere,
              "{} is truncated: the storage {} is cut off", path_.string(), key);
      positions_[key] = position;
      position += at->second.bytes();
    }
  }

  void read_storage(const std::string& key, const StorageInfo&, std::span<std::byte> bytes) override {
    const auto at = positions_.find(key);
    require(at != positions_.end(), kWhere, "{} has no storage {}", path_.string(), key);
    stream_.clear();
    stream_.seekg(static_cast<std::streamoff>(at->second));
    stream_.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    require(stream_.good(), kWhere, "{} is truncated: cannot read the storage {}", path_.string(), key);
  }

  std::ifstream stream_;
  std::uint64_t file_bytes_ = 0;
  std::map<std::string, std::uint64_t> positions_;  // of the first element
};

}  // namespace

std::unique_ptr<TensorSource> open_torch_zip(const std::filesystem::path& path) {
  return std::make_unique<TorchZipSource>(path);
}

std::unique_ptr<TensorSource> open_torch_legacy(const std::filesystem::path& path) {
  return std::make_unique<TorchLegacySource>(path);
}

}  // namespace dino
