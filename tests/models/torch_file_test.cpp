#include "models/torch_file.h"

#include "engine/files.h"
#include "engine/random.h"
#include "models/pickle.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/paths.h"
#include "tests/support/temporary_folder.h"

#include <zip.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

using namespace dino;
using namespace dino::test;

namespace {

template <typename T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

// The operations of pickles, as bytes.
std::string op(unsigned char code) { return std::string(1, static_cast<char>(code)); }
std::string text(const std::string& value) { return "X" + raw(static_cast<std::uint32_t>(value.size())) + value; }
std::string integer(std::int64_t value) { return op(0x8a) + op(8) + raw(value); }
std::string global(const std::string& name) { return "c" + name + "\n"; }  // "module\nname"
std::string tuple(const std::string& items) { return "(" + items + "t"; }
std::string dict(const std::string& pairs) { return "}(" + pairs + "u"; }
std::string call(const std::string& callable, const std::string& arguments) {
  return callable + tuple(arguments) + "R";
}
std::string pickled(const std::string& value) { return op(0x80) + op(2) + value + "."; }

std::span<const std::byte> bytes_of(const std::string& s) { return std::as_bytes(std::span(s.data(), s.size())); }

std::string storage_id(const std::string& type, const std::string& key, std::int64_t elements) {
  const std::string module = type == "UntypedStorage" ? "torch.storage" : "torch";
  return tuple(text("storage") + global(module + "\n" + type) + text(key) + text("cpu") + integer(elements)) + "Q";
}

std::string tensor(const std::string& type, const std::string& key, std::int64_t elements, std::int64_t offset,
                   const std::vector<std::int64_t>& extents, const std::vector<std::int64_t>& strides) {
  std::string sizes, steps;
  for (const std::int64_t extent : extents) sizes += integer(extent);
  for (const std::int64_t stride : strides) steps += integer(stride);
  return call(global("torch._utils\n_rebuild_tensor_v2"), storage_id(type, key, elements) + integer(offset) +
                                                              tuple(sizes) + tuple(steps) + op(0x89) +
                                                              call(global("collections\nOrderedDict"), ""));
}

struct Storage {
  std::string key;
  std::int64_t elements;
  std::string bytes;
};

/// A file in PyTorch's old format.
std::string legacy_file(const std::string& object, const std::vector<Storage>& storages) {
  const std::string magic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);
  std::string file = pickled(op(0x8a) + op(10) + magic) + pickled("M" + raw(std::uint16_t{1001})) +
                     pickled(dict(text("little_endian") + op(0x88))) + pickled(object);
  std::string keys;
  for (const Storage& storage : storages) keys += text(storage.key);
  file += pickled("](" + keys + "e");
  for (const Storage& storage : storages) file += raw(storage.elements) + storage.bytes;
  return file;
}

std::filesystem::path write_file(const std::filesystem::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

std::vector<float> read_named(TensorSource& source, const std::string& name) {
  for (std::size_t i = 0; i < source.tensors().size(); ++i) {
    if (source.tensors()[i].name != name) continue;
    std::vector<float> values(static_cast<std::size_t>(source.tensors()[i].shape.size()));
    source.read(i, values);
    return values;
  }
  FAIL("no tensor " << name);
  return {};
}

template <typename T>
std::string packed(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

/// Applies `attempt` to copies of `content` with a few bytes changed: it may throw Error, and nothing else may happen.
template <typename Attempt>
void mutate(const std::string& content, std::size_t first_bytes, int rounds, Attempt&& attempt) {
  Random random(9, RandomStream::test);
  int refused = 0;
  for (int round = 0; round < rounds; ++round) {
    std::string changed = content;
    for (std::uint32_t i = 0; i <= random.below(3); ++i) {
      changed[random.below(static_cast<std::uint32_t>(std::min(first_bytes, content.size())))] =
          static_cast<char>(random.bits());
    }
    try {
      attempt(changed);
    } catch (const Error&) {
      ++refused;
    }
  }
  CHECK(refused > rounds / 10);
}

}  // namespace

TEST_CASE("pickles are read as data") {
  const std::string bytes =
      pickled(dict(text("list") + "](" + "K" + op(7) + "J" + raw(std::int32_t{-5}) + integer(-1) + "e" +  //
                   text("real") + "G" + std::string("\x3f\xf8\0\0\0\0\0\0", 8) +                          //
                   text("pair") + "N" + op(0x88) + op(0x86) + "q" + op(0) +                               //
                   text("again") + "h" + op(0) +                                                          //
                   text("short") + op(0x8a) + op(2) + raw(std::int16_t{-300}) +                           //
                   text("nothing") + op(0x8a) + op(0)));
  const Pickle pickle(bytes_of(bytes + "trailing"), "test");
  CHECK(pickle.size_bytes() == bytes.size());
  const PickleValue& root = pickle.root();
  const PickleValue* list = pickle.find(root, "list");
  REQUIRE(list != nullptr);
  REQUIRE(list->items.size() == 3);
  CHECK(pickle[list->items[0]].integer == 7);
  CHECK(pickle[list->items[1]].integer == -5);
  CHECK(pickle[list->items[2]].integer == -1);
  CHECK(pickle.find(root, "real")->real == 1.5);
  CHECK(pickle.find(root, "pair") == pickle.find(root, "again"));
  CHECK(pickle.find(root, "short")->integer == -300);
  CHECK(pickle.find(root, "nothing")->integer == 0);
  CHECK(pickle.find(root, "absent") == nullptr);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    CHECK_THROWS_AS(Pickle(bytes_of(bytes.substr(0, size)), "test"), Error);
  }
}

TEST_CASE("pickles that make no sense are refused") {
  const auto message = [](const std::string& operations) {
    return error_of([&] { Pickle(bytes_of(pickled(operations)), "test"); });
  };
  CHECK(contains(message(""), "value is missing"));
  CHECK(contains(message("t"), "mark is missing"));
  CHECK(contains(message("K" + op(1) + "(0"), "value is missing"));
  CHECK(contains(message("NN"), "left over"));
  CHECK(contains(message("h" + op(3)), "never stored"));
  CHECK(contains(message("Nr" + raw(std::uint32_t{0xffffffff})), "memo"));
  CHECK(contains(message("NNNs"), "no container"));
  CHECK(contains(message("NNa"), "no container"));
  CHECK(contains(message("}(Nu"), "without value"));
  CHECK(contains(message("I01\n"), "operation 0x49"));
  CHECK(contains(message("X" + raw(std::uint32_t{0xfffffff0}) + "abc"), "ends early"));
  CHECK(contains(message(op(0x8d) + raw(~std::uint64_t{0})), "ends early"));
  CHECK(contains(error_of([] { Pickle(bytes_of(op(0x80) + op(9) + "N."), "test"); }), "protocol"));
  // Millions of values from few bytes, and nesting that would exhaust a call stack.
  CHECK(contains(message(std::string((1 << 20) + 1, 'N')), "too many values"));
  const std::string deep = std::string(300000, ']') + std::string(299999, 'a');
  CHECK(message(deep).empty());
}

TEST_CASE("nothing in a pickle is executed") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "file.pth";
  const std::string mark = (folder.path() / "executed").string();
  const std::string evil = call(global("posix\nsystem"), text("touch " + mark));
  const std::string good = tensor("FloatStorage", "0", 2, 0, {2}, {1});
  const Storage storage{"0", 2, packed<float>({1, 2})};

  write_file(path, legacy_file(evil, {}));
  CHECK(contains(error_of([&] { open_torch_legacy(path); }), "not a dictionary of tensors"));
  write_file(path, legacy_file(dict(text("evil") + evil + text("good") + good), {storage}));
  const auto source = open_torch_legacy(path);
  REQUIRE(source->tensors().size() == 1);
  CHECK(read_named(*source, "good") == std::vector<float>{1, 2});
  CHECK_FALSE(std::filesystem::exists(mark));
  // A call that only looks like a tensor.
  write_file(
      path,
      legacy_file(dict(text("x") + call(global("torch._utils\n_rebuild_tensor_v2"), evil + evil + evil + evil)), {}));
  CHECK(contains(error_of([&] { open_torch_legacy(path); }), "malformed"));
  CHECK_FALSE(std::filesystem::exists(mark));
}

TEST_CASE("torch tensors of every type and layout are read") {
  const TemporaryFolder folder;
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> matrix = {0, 1, 2, 3, 4, 5, 6, 7};
  std::string entries = text("plain") + tensor("FloatStorage", "f", 8, 0, {2, 4}, {4, 1});
  entries += text("window") + tensor("FloatStorage", "f", 8, 5, {3}, {1});
  entries += text("transposed") + tensor("FloatStorage", "f", 8, 0, {4, 2}, {1, 4});
  entries += text("column") + tensor("FloatStorage", "f", 8, 1, {2, 1}, {4, 99});
  entries += text("repeated") + tensor("FloatStorage", "f", 8, 6, {2, 3, 2}, {0, 0, 1});
  entries += text("scalar") + tensor("FloatStorage", "f", 8, 3, {}, {});
  entries += text("empty") + tensor("FloatStorage", "f", 8, 0, {0, 4}, {4, 1});
  entries += text("half") + tensor("HalfStorage", "h", 6, 0, {6}, {1});
  entries += text("bf16") + tensor("BFloat16Storage", "b", 2, 0, {2}, {1});
  entries += text("double") + tensor("DoubleStorage", "d", 1, 0, {1}, {1});
  entries += text("long") + tensor("LongStorage", "l", 2, 0, {2}, {1});
  entries += text("bool") + tensor("BoolStorage", "t", 3, 0, {3}, {1});
  entries += text("parameter") + call(global("torch._utils\n_rebuild_parameter"),
                                      tensor("FloatStorage", "f", 8, 0, {8}, {1}) + op(0x88) + "N");
  entries += text("number") + integer(12) + text("name") + text("vit_small") + text("rate") + "G" +
             std::string("\x3f\xe0\0\0\0\0\0\0", 8);
  // A tensor that lies deeper than is looked has a storage all the same.
  entries += text("optimizer") + dict(text("state") + dict(text("0") + tensor("FloatStorage", "o", 1, 0, {1}, {1})));
  const std::string file =
      legacy_file(dict(entries), {{"f", 8, packed(matrix)},
                                  {"h", 6, packed<std::uint16_t>({0x3c00, 0xc000, 0x0001, 0x7c00, 0x8000, 0x3555})},
                                  {"o", 1, packed<float>({9})},
                                  {"b", 2, packed<std::uint16_t>({0x3f80, 0xc040})},
                                  {"d", 1, packed<double>({0.5})},
                                  {"t", 3, "abc"},
                                  {"l", 2, packed<std::int64_t>({-3, 4})}});
  const auto source = open_torch_legacy(write_file(folder.path() / "file.pth", file));
  const auto values = [&](const char* name) { return read_named(*source, name); };
  using Values = std::vector<float>;
  CHECK(values("plain") == matrix);
  CHECK(values("window") == Values{5, 6, 7});
  CHECK(values("transposed") == Values{0, 4, 1, 5, 2, 6, 3, 7});
  CHECK(values("column") == Values{1, 5});
  CHECK(values("repeated") == Values{6, 7, 6, 7, 6, 7, 6, 7, 6, 7, 6, 7});
  CHECK(values("scalar") == Values{3});
  CHECK(values("half") == Values{1, -2, 0x1p-24F, infinity, -0.0F, 0.333251953125F});
  CHECK(std::signbit(values("half")[4]));
  CHECK(values("bf16") == Values{1, -3});
  CHECK(values("double") == Values{0.5});
  CHECK(values("long") == Values{-3, 4});
  CHECK(values("parameter") == matrix);
  CHECK(source->tensors().size() == 11);  // neither the empty nor the Boolean one
  CHECK(source->metadata().at("number") == "12");
  CHECK(source->metadata().at("name") == "vit_small");
  CHECK(source->metadata().at("rate") == "0.5");

  const std::filesystem::path path = folder.path() / "changed.pth";
  mutate(file, file.size(), 600, [&](const std::string& changed) {
    write_file(path, changed);
    const auto damaged = open_torch_legacy(path);
    for (const StoredTensor& t : damaged->tensors()) read_named(*damaged, t.name);
  });
}

TEST_CASE("torch parameters and tensors with attributes are read") {
  const TemporaryFolder folder;
  const std::string attributes = dict(text("no_weight_decay") + op(0x88));
  const std::string hooks = call(global("collections\nOrderedDict"), "");
  const auto plain = [](std::int64_t offset) { return tensor("FloatStorage", "f", 4, offset, {2}, {1}); };
  const std::string with_state =
      call(global("torch._utils\n_rebuild_parameter_with_state"), plain(0) + op(0x88) + hooks + attributes);
  // A plain tensor's arguments, made by a function that is named beside them.
  const std::string arguments =
      tuple(storage_id("FloatStorage", "f", 4) + integer(1) + tuple(integer(2)) + tuple(integer(1)) + op(0x89) + hooks);
  const auto from_type = [&](const std::string& type) {
    return call(global("torch._tensor\n_rebuild_from_type_v2"),
                global("torch._utils\n_rebuild_tensor_v2") + global(type) + arguments + attributes);
  };
  const std::string both = call(global("torch._utils\n_rebuild_parameter"), from_type("my\nTensor") + op(0x88) + hooks);
  const auto source = open_torch_legacy(write_file(
      folder.path() / "file.pth",
      legacy_file(dict(text("state") + with_state + text("type") + from_type("torch\nTensor") + text("both") + both),
                  {{"f", 4, packed<float>({1, 2, 3, 4})}})));
  REQUIRE(source->tensors().size() == 3);
  CHECK(read_named(*source, "state") == std::vector<float>{1, 2});
  CHECK(read_named(*source, "type") == std::vector<float>{2, 3});
  CHECK(read_named(*source, "both") == std::vector<float>{2, 3});
}

TEST_CASE("torch tensors of types that no network has are passed over") {
  const TemporaryFolder folder;
  std::string entries = text("weight") + tensor("FloatStorage", "w", 2, 0, {2}, {1});
  // What torch.save writes of float8, uint16, … since PyTorch 2.1.
  entries +=
      text("scale") + call(global("torch._utils\n_rebuild_tensor_v3"),
                           storage_id("UntypedStorage", "u", 6) + integer(0) + tuple(integer(3)) + tuple(integer(1)) +
                               op(0x89) + call(global("collections\nOrderedDict"), "") + global("torch\nuint16"));
  std::vector<Storage> storages{{"w", 2, packed<float>({3, 4})}, {"u", 6, "abcdef"}};
  const std::vector<std::pair<std::string, std::size_t>> quantized{
      {"QInt8Storage", 1}, {"QUInt8Storage", 1}, {"QInt32Storage", 4}, {"QUInt4x2Storage", 1}, {"QUInt2x4Storage", 1}};
  for (const auto& [type, bytes] : quantized) {
    entries += text(type) + call(global("torch._utils\n_rebuild_qtensor"), storage_id(type, type, 3));
    storages.push_back({type, 3, std::string(3 * bytes, 'q')});
  }
  storages.push_back({"x", 1, packed<float>({5})});
  entries += text("last") + tensor("FloatStorage", "x", 1, 0, {1}, {1});
  const auto source = open_torch_legacy(write_file(folder.path() / "file.pth", legacy_file(dict(entries), storages)));
  CHECK(source->tensors().size() == 2);
  CHECK(read_named(*source, "weight") == std::vector<float>{3, 4});
  CHECK(read_named(*source, "last") == std::vector<float>{5});
}

TEST_CASE("torch tensors that reach beyond their storage are refused") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "file.pth";
  const std::int64_t huge = std::numeric_limits<std::int64_t>::max();
  const auto message = [&](const std::string& value, const Storage& storage) {
    write_file(path, legacy_file(dict(text("x") + value), {storage}));
    return error_of([&] {
      const auto source = open_torch_legacy(path);
      read_named(*source, "x");
    });
  };
  const Storage storage{"0", 8, packed<float>(std::vector<float>(8))};
  const auto with = [&](std::int64_t offset, const std::vector<std::int64_t>& extents,
                        const std::vector<std::int64_t>& strides) {
    return message(tensor("FloatStorage", "0", 8, offset, extents, strides), storage);
  };
  CHECK(with(0, {8}, {1}).empty());
  CHECK(contains(with(1, {8}, {1}), "beyond its storage"));
  CHECK(contains(with(8, {1}, {1}), "beyond its storage"));
  CHECK(contains(with(0, {2, 2}, {7, 1 << 30}), "beyond its storage"));
  CHECK(contains(with(0, {9}, {1}), "beyond its storage"));
  CHECK(with(7, {1 << 20}, {0}).empty());
  CHECK(contains(with(0, {(1 << 20) + 1}, {0}), "repeats the numbers"));
  CHECK(contains(with(0, {huge, huge}, {0, 0}), "repeats the numbers"));
  CHECK(contains(with(0, {3}, {huge}), "beyond its storage"));
  CHECK(contains(with(huge, {1}, {1}), "beyond its storage"));
  CHECK(contains(with(-1, {1}, {1}), "natural number"));
  CHECK(contains(with(0, {-1}, {1}), "natural number"));
  CHECK(contains(with(0, {2}, {1, 1}), "extents"));
  CHECK(contains(with(0, {1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1}), "more than 6 dimensions"));
  CHECK(contains(message(tensor("FloatStorage", "0", huge, 0, {1}, {1}), storage), "claims"));
  CHECK(contains(message(tensor("FloatStorage", "0", 1 << 30, 0, {1}, {1}), storage), "another size"));
  CHECK(contains(message(tensor("FloatStorage", "0", 8, 0, {1}, {1}), {"0", 8, "abc"}), "truncated"));
  CHECK(
      contains(message(tensor("FloatStorage", "0", 8, 0, {1}, {1}), {"1", 8, storage.bytes}), "belongs to no tensor"));
  CHECK(contains(message(tensor("TextStorage", "0", 8, 0, {1}, {1}), storage), "unknown type"));
}

TEST_CASE("torch zips whose entries are compressed, or larger than the file, are refused before memory is taken") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "bomb.pth";
  const std::string zeros(std::size_t{64} << 20, '\0');
  const auto zip = [&](const std::string& pickle, const std::string& storage, zip_int32_t method) {
    int code = 0;
    zip_t* file = zip_open(path.c_str(), ZIP_CREATE | ZIP_TRUNCATE, &code);
    REQUIRE(file != nullptr);
    for (const auto& [name, bytes] : {std::pair{"archive/data.pkl", &pickle}, {"archive/data/0", &storage}}) {
      const zip_int64_t index =
          zip_file_add(file, name, zip_source_buffer(file, bytes->data(), bytes->size(), 0), ZIP_FL_ENC_UTF_8);
      REQUIRE(index >= 0);
      const bool compress = std::string_view(name).ends_with("/0") || bytes->size() > (1 << 20);
      zip_set_file_compression(file, static_cast<zip_uint64_t>(index), compress ? method : ZIP_CM_STORE, 0);
    }
    REQUIRE(zip_close(file) == 0);
  };
  const auto message = [&] {
    return error_of([&] {
      const auto source = open_tensors(path);
      read_named(*source, "x");
    });
  };
  const std::int64_t elements = std::int64_t{16} << 20;
  const std::string pickle = pickled(dict(text("x") + tensor("FloatStorage", "0", elements, 0, {elements}, {1})));
  zip(pickle, zeros, ZIP_CM_DEFLATE);
  CHECK(std::filesystem::file_size(path) < 1 << 20);
  CHECK(contains(message(), "compressed"));
  zip(zeros, zeros, ZIP_CM_DEFLATE);
  CHECK(contains(message(), "compressed"));
  // The pickle may claim what it likes.
  const std::int64_t huge = std::int64_t{1} << 39;
  zip(pickled(dict(text("x") + tensor("FloatStorage", "0", huge, 0, {huge}, {1}))), "12345678", ZIP_CM_STORE);
  CHECK(contains(message(), "has 8 bytes, expected 2199023255552"));
  zip(pickled(dict(text("x") + tensor("FloatStorage", "0", 2, 0, {2}, {1}))), "12345678", ZIP_CM_STORE);
  CHECK(message().empty());
}

TEST_CASE("golden torch files without checksums are read") {
  const TemporaryFolder folder;
  std::string content = read_text_file(golden_dir() / "backbone_half.pth");
  // As torch.serialization.set_crc32_options(False) leaves them, in both of an entry's headers.
  int entries = 0;
  for (std::size_t at = content.find("PK\1\2"); at != std::string::npos; at = content.find("PK\1\2", at + 4)) {
    std::uint32_t local = 0;
    std::memcpy(&local, content.data() + at + 42, sizeof local);
    REQUIRE(content.substr(local, 4) == "PK\3\4");
    content.replace(at + 16, 4, 4, '\0');
    content.replace(local + 14, 4, 4, '\0');
    ++entries;
  }
  REQUIRE(entries > 10);
  const auto source = open_tensors(write_file(folder.path() / "file.pth", content));
  const auto golden = open_tensors(golden_dir() / "backbone_half.pth");
  REQUIRE(source->tensors().size() == golden->tensors().size());
  for (const StoredTensor& t : source->tensors()) CHECK(read_named(*source, t.name) == read_named(*golden, t.name));
}

TEST_CASE("golden torch files that are damaged are refused") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "file.pth";
  const auto read_all = [&](const std::string& content) {
    write_file(path, content);
    const auto source = open_tensors(path);
    for (const StoredTensor& t : source->tensors()) read_named(*source, t.name);
  };
  for (const char* name : {"backbone_half.pth", "checkpoint_full_legacy.pth"}) {
    INFO(name);
    const std::string content = read_text_file(golden_dir() / name);
    CHECK(error_of([&] { read_all(content); }).empty());
    for (const double share : {0.0, 0.001, 0.01, 0.5, 0.999}) {
      const auto size = static_cast<std::size_t>(share * static_cast<double>(content.size()));
      INFO("cut to " << size << " bytes");
      CHECK_THROWS_AS(read_all(content.substr(0, size)), Error);
    }
    CHECK_THROWS_AS(read_all(content.substr(0, content.size() - 1)), Error);
  }
  // The checksum of an entry finds a change that leaves all sizes as they are.
  std::string content = read_text_file(golden_dir() / "backbone_half.pth");
  content[content.size() / 2] = static_cast<char>(content[content.size() / 2] ^ 1);
  const std::string message = error_of([&] { read_all(content); });
  CHECK(contains(message, "damaged"));
  CHECK(contains(message, "CRC"));

  // The pickles of a real checkpoint.
  const std::string legacy = read_text_file(golden_dir() / "checkpoint_full_legacy.pth");
  mutate(legacy.substr(0, std::min<std::size_t>(legacy.size(), 1 << 17)), 20000, 300, [](const std::string& changed) {
    std::span<const std::byte> rest = bytes_of(changed);
    for (int i = 0; i < 5; ++i) rest = rest.subspan(Pickle(rest, "test").size_bytes());
  });
}
