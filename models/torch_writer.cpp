#include "models/torch_writer.h"

#include "engine/files.h"

#include <zip.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <set>
#include <string>

namespace dino {
namespace {

constexpr const char* kWhere = "pth";
constexpr std::string_view kFolder = "archive/";

/// The few operations of Python's pickle protocol 2 that a dictionary of tensors takes; no memo, so that every value
/// stands where it is used.
class PickleWriter {
 public:
  PickleWriter() { bytes_ = {'\x80', 2}; }

  void global(std::string_view module, std::string_view name) {
    bytes_ += 'c';
    bytes_.append(module).append("\n").append(name).append("\n");
  }
  void text(std::string_view value) {
    bytes_ += 'X';
    little_endian(value.size(), 4);
    bytes_ += value;
  }
  void integer(std::int64_t value) {
    const bool small = value >= 0 && value <= std::numeric_limits<std::int32_t>::max();
    bytes_ += small ? "J" : "\x8a\x08";
    little_endian(static_cast<std::uint64_t>(value), small ? 4 : 8);
  }
  void no() { bytes_ += '\x89'; }
  void mark() { bytes_ += '('; }
  void tuple_since_mark() { bytes_ += 't'; }
  void call() { bytes_ += 'R'; }
  void persistent() { bytes_ += 'Q'; }
  void set_items_since_mark() { bytes_ += 'u'; }
  std::string finish() { return std::move(bytes_ += '.'); }

  void empty_dict() {
    global("collections", "OrderedDict");
    bytes_ += ")R";
  }

 private:
  void little_endian(std::uint64_t value, int size_bytes) {
    for (int i = 0; i < size_bytes; ++i) bytes_ += static_cast<char>((value >> (8 * i)) & 0xff);
  }

  std::string bytes_;
};

std::string_view storage_type(DType dtype) {
  switch (dtype) {
    case DType::float32: return "FloatStorage";
    case DType::bfloat16: return "BFloat16Storage";
    case DType::float16: return "HalfStorage";
    default: fail(kWhere, "tensors cannot be written as {}; expected float32, bfloat16 or float16", name_of(dtype));
  }
}

/// torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()).
void pickle_tensor(PickleWriter& pickle, const std::string& key, const ConstArray& array) {
  pickle.global("torch._utils", "_rebuild_tensor_v2");
  pickle.mark();
  pickle.mark();
  pickle.text("storage");
  pickle.global("torch", storage_type(array.dtype()));
  pickle.text(key);
  pickle.text("cpu");
  pickle.integer(array.size());
  pickle.tuple_since_mark();
  pickle.persistent();
  pickle.integer(0);
  const auto extents = array.shape().extents();
  pickle.mark();
  for (const std::int64_t extent : extents) pickle.integer(extent);
  pickle.tuple_since_mark();
  pickle.mark();
  for (std::size_t i = 0; i < extents.size(); ++i) {
    std::int64_t stride = 1;
    for (std::size_t j = i + 1; j < extents.size(); ++j) stride *= extents[j];
    pickle.integer(stride);
  }
  pickle.tuple_since_mark();
  pickle.no();
  pickle.empty_dict();
  pickle.tuple_since_mark();
  pickle.call();
}

/// A zip in memory, through libzip. Entries must outlive finish().
class ZipWriter {
 public:
  ZipWriter() {
    zip_error_init(&error_);
    buffer_ = zip_source_buffer_create(nullptr, 0, 0, &error_);
    require(buffer_ != nullptr, kWhere, "cannot make a zip file: {}", zip_error_strerror(&error_));
    zip_ = zip_open_from_source(buffer_, ZIP_TRUNCATE, &error_);
    if (zip_ == nullptr) zip_source_free(buffer_);
    require(zip_ != nullptr, kWhere, "cannot make a zip file: {}", zip_error_strerror(&error_));
    zip_source_keep(buffer_);
  }
  ~ZipWriter() {
    if (zip_ != nullptr) zip_discard(zip_);
    if (buffer_ != nullptr) zip_source_free(buffer_);
    zip_error_fini(&error_);
  }
  ZipWriter(const ZipWriter&) = delete;
  ZipWriter& operator=(const ZipWriter&) = delete;

  void add(const std::string& name, const void* data, std::size_t size) {
    zip_source_t* source = zip_source_buffer(zip_, data, size, 0);
    check(source != nullptr, name);
    const zip_int64_t index = zip_file_add(zip_, name.c_str(), source, ZIP_FL_ENC_UTF_8);
    if (index < 0) zip_source_free(source);
    check(index >= 0, name);
    const auto entry = static_cast<zip_uint64_t>(index);
    check(zip_set_file_compression(zip_, entry, ZIP_CM_STORE, 0) == 0, name);
    check(zip_file_set_dostime(zip_, entry, 0, kDate, 0) == 0, name);
    // A local header is 30 bytes, the name and the extra field, whose own head has 4; PyTorch pads with `FB` as well.
    constexpr std::uint64_t kHeader = 30;
    constexpr std::uint64_t kExtraHead = 4;
    constexpr std::uint64_t kAlignment = 64;
    const std::uint64_t begin = position_ + kHeader + name.size() + kExtraHead;
    const std::uint64_t padding = (kAlignment - begin % kAlignment) % kAlignment;
    const std::string zeros(padding, '\0');
    check(zip_file_extra_field_set(zip_, entry, kPaddingField, ZIP_EXTRA_FIELD_NEW,
                                   reinterpret_cast<const zip_uint8_t*>(zeros.data()),
                                   static_cast<zip_uint16_t>(padding), ZIP_FL_LOCAL) == 0,
          name);
    position_ = begin + padding + size;
  }

  /// Writes the whole zip.
  void finish(AtomicFile& file) {
    check(zip_close(zip_) == 0, "the zip file");
    zip_ = nullptr;
    require(zip_source_open(buffer_) == 0, kWhere, "cannot read the zip file back: {}",
            zip_error_strerror(zip_source_error(buffer_)));
    std::vector<std::byte> piece(std::size_t{1} << 20);
    for (;;) {
      const zip_int64_t count = zip_source_read(buffer_, piece.data(), piece.size());
      require(count >= 0, kWhere, "cannot read the zip file back: {}", zip_error_strerror(zip_source_error(buffer_)));
      if (count == 0) break;
      file.write(std::span(piece).first(static_cast<std::size_t>(count)));
    }
    zip_source_close(buffer_);
  }

 private:
  static constexpr zip_uint16_t kPaddingField = 0x4246;  // `FB`
  static constexpr zip_uint16_t kDate = (1 << 5) | 1;    // 1980-01-01, so that the bytes are the same every time

  void check(bool done, std::string_view what) {
    require(done, kWhere, "cannot write {}: {}", what, zip_strerror(zip_));
  }

  zip_error_t error_;
  zip_source_t* buffer_ = nullptr;
  zip_t* zip_ = nullptr;
  std::uint64_t position_ = 0;  // of the next local header
};

}  // namespace

void write_torch(const std::filesystem::path& path, const std::vector<NamedArray>& arrays) {
  AtomicFile file(path);  // before any work, so that a path that cannot be written fails first
  PickleWriter pickle;
  pickle.empty_dict();
  pickle.mark();
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    require(names.insert(arrays[i].name).second, kWhere, "the tensor {} is given twice", arrays[i].name);
    require(arrays[i].array.size() > 0, kWhere, "the tensor {} is empty", arrays[i].name);
    pickle.text(arrays[i].name);
    pickle_tensor(pickle, std::to_string(i), arrays[i].array);
  }
  pickle.set_items_since_mark();
  const std::string pickled = pickle.finish();
  constexpr std::string_view kVersion = "3\n";
  constexpr std::string_view kByteOrder = "little";

  ZipWriter zip;
  const auto name = [](std::string_view inner) { return std::string(kFolder) + std::string(inner); };
  zip.add(name("data.pkl"), pickled.data(), pickled.size());
  zip.add(name("byteorder"), kByteOrder.data(), kByteOrder.size());
  for (std::size_t i = 0; i < arrays.size(); ++i)
    zip.add(name(fmt::format("data/{}", i)), arrays[i].array.data(), arrays[i].array.size_bytes());
  zip.add(name("version"), kVersion.data(), kVersion.size());
  zip.finish(file);
  file.commit();
}

}  // namespace dino
