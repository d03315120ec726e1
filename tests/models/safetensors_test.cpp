#include "models/safetensors.h"

#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/host_array.h"
#include "tests/support/paths.h"
#include "tests/support/temporary_folder.h"

#include <fmt/format.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <string>
#include <thread>
#include <vector>

using namespace dino;
using namespace dino::test;

namespace {

struct Folder {
  TemporaryFolder temporary;
  std::filesystem::path file = temporary.path() / "x.safetensors";

  void write(const std::string& bytes) const { std::ofstream(file, std::ios::binary) << bytes; }
  std::string bytes() const {
    std::ifstream stream(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
};

std::string little_endian(std::uint64_t value) {
  std::string text(8, '\0');
  std::memcpy(text.data(), &value, 8);
  return text;
}

std::string file_of(const std::string& header, std::size_t data_bytes) {
  return little_endian(header.size()) + header + std::string(data_bytes, '\1');
}

/// The file by both ways of reading it, which must agree.
SafetensorsFile read_both(const std::filesystem::path& path) {
  std::optional<SafetensorsReader> reader;
  const std::string refused = error_of([&] { reader.emplace(path); });
  CHECK(refused == error_of([&] { SafetensorsFile::read(path); }));
  SafetensorsFile file = SafetensorsFile::read(path);
  CHECK((reader->names() == file.names() && reader->metadata() == file.metadata()));
  // In another order than that of the data.
  for (auto name = file.names().rbegin(); name != file.names().rend(); ++name) {
    const ConstArray array = file[*name];
    CHECK((reader->contains(*name) && reader->dtype(*name) == array.dtype() && reader->shape(*name) == array.shape()));
    std::vector<std::byte> bytes(array.size_bytes() + 1);
    CHECK_THROWS_AS(reader->read(*name, bytes), Error);
    bytes.pop_back();
    reader->read(*name, bytes);
    CHECK((bytes.empty() || std::memcmp(bytes.data(), array.data(), bytes.size()) == 0));
  }
  CHECK_FALSE(reader->contains("no such tensor"));
  CHECK(error_of([&] { reader->shape("no such tensor"); }) == error_of([&] { file["no such tensor"]; }));
  CHECK(error_of([&] { reader->metadata("no such key"); }) == error_of([&] { file.metadata("no such key"); }));
  return file;
}

/// Whether reading is refused by an Error that names the file: no other exception, no crash.
void check_refused(const Folder& folder, const std::string& bytes, const std::string& what) {
  INFO(what);
  folder.write(bytes);
  const std::string error = error_of([&] { read_both(folder.file); });
  CHECK(contains(error, "[safetensors]"));
  CHECK(contains(error, "x.safetensors"));
}

}  // namespace

TEST_CASE("safetensors written here read back bit by bit, aligned, with their metadata") {
  const Folder folder;
  const HostArray a = random_normal(DType::float32, {3, 5}, 1);
  const HostArray b = random_normal(DType::bfloat16, {7}, 2);
  const HostArray c = from_integers({1, -2, 3});
  const HostArray d = random_normal(DType::float64, {1, 1, 2}, 3);
  const float scalar = 4.5F;
  write_safetensors(folder.file,
                    {{"b \"quoted\" ü", b.array()},
                     {"a", a.array()},
                     {"c", c.array()},
                     {"d", d.array()},
                     {"scalar", ConstArray(&scalar, Shape{})}},
                    {{"key", "value\n"}, {"other", ""}});
  const SafetensorsFile file = read_both(folder.file);
  CHECK(file.metadata().size() == 2);
  CHECK(file.metadata("key") == "value\n");
  CHECK(contains(error_of([&] { file.metadata("none"); }), "none"));
  CHECK(file.names().size() == 5);
  CHECK(file.contains("a"));
  CHECK_FALSE(file.contains("z"));
  CHECK(contains(error_of([&] { file["missing"]; }), "missing"));
  CHECK(file["a"].shape() == a.shape());
  check_close(file["a"], a, 0.0, "a");
  check_close(file["b \"quoted\" ü"], b, 0.0, "b");
  check_close(file["d"], d, 0.0, "d");
  CHECK(file["c"].as<std::int32_t>()[1] == -2);
  CHECK(file["scalar"].shape().rank() == 0);
  CHECK(file["scalar"].as<float>()[0] == 4.5F);
  for (const std::string& name : file.names()) {
    CHECK(reinterpret_cast<std::uintptr_t>(file[name].data()) % size_of(file[name].dtype()) == 0);
  }
  // What the format asks for: the data starts at a multiple of eight.
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, folder.bytes().data(), 8);
  CHECK(header_bytes % 8 == 0);
}

TEST_CASE("safetensors keep what is not finite") {
  const Folder folder;
  const float values[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -0.0F,
                          1e-45F};
  write_safetensors(folder.file, {{"x", ConstArray(values, Shape{4})}});
  const SafetensorsFile file = read_both(folder.file);
  CHECK(std::memcmp(file["x"].data(), values, sizeof(values)) == 0);
}

TEST_CASE("safetensors with equal names are not written") {
  const Folder folder;
  const HostArray a = random_normal(DType::float32, {3}, 1);
  CHECK_THROWS_AS(write_safetensors(folder.file, {{"a", a.array()}, {"a", a.array()}}), Error);
  CHECK_FALSE(std::filesystem::exists(folder.file));
}

TEST_CASE("golden safetensors cut off anywhere are refused") {
  const Folder folder;
  std::ifstream stream(golden_dir() / "knn.safetensors", std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(stream), {}};
  REQUIRE(whole.size() > 1000);
  folder.write(whole);
  CHECK_FALSE(read_both(folder.file).names().empty());
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{8}, std::size_t{9},
                                 std::size_t{100}, whole.size() / 2, whole.size() - 1}) {
    check_refused(folder, whole.substr(0, size), "cut to " + std::to_string(size) + " bytes");
  }
}

TEST_CASE("hostile safetensors headers are refused") {
  const Folder folder;
  const auto tensor = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"t":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  folder.write(file_of(tensor("F32", "[2,3]", "[0,24]"), 24));
  CHECK(read_both(folder.file)["t"].size() == 6);

  // The header's length.
  for (const std::uint64_t length :
       {std::uint64_t{17}, std::uint64_t{1} << 31, std::uint64_t{1} << 62, ~std::uint64_t{0}, ~std::uint64_t{7}}) {
    check_refused(folder, little_endian(length) + std::string(16, ' '), "length " + std::to_string(length));
  }
  // Its form.
  for (const char* header :
       {"", "{", "[]", "null", "17", "\"text\"", "{\"t\":{}}", "{\"t\":17}", "{\"t\":null}", "{\"\xff\":{}}",
        R"({"__metadata__":[]})", R"({"__metadata__":{"a":1}})", R"({"__metadata__":{"a":null}})",
        R"({"t":{"dtype":"F32","shape":[1]}})", R"({"t":{"dtype":"F32","data_offsets":[0,4]}})",
        R"({"t":{"shape":[1],"data_offsets":[0,4]}})", R"({"t":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})"}) {
    check_refused(folder, file_of(header, 8), header);
  }
  check_refused(folder, file_of(std::string(100000, '['), 8), "deep nesting");
  // Its values.
  const struct {
    const char *dtype, *shape, *offsets;
  } faults[] = {
      {"F32", "[2,3]", "[0,23]"},                    // too few bytes
      {"F32", "[2,3]", "[0,28]"},                    // beyond the data
      {"F32", "[2,3]", "[4,28]"},                    // partly beyond
      {"F32", "[2,3]", "[24,0]"},                    // backwards
      {"F32", "[2,3]", "[18446744073709551608,8]"},  // wraps around
      {"F32", "[2,3]", "[0,18446744073709551640]"},  // needs more than 64 bits
      {"F32", "[2,3]", "[0]"},                       // one offset
      {"F32", "[2,3]", "[0,12,24]"},                 // three
      {"F32", "[2,3]", "[0.0,24.0]"},                // no integers
      {"F32", "[2,3]", "[\"0\",\"24\"]"},            // texts
      {"F32", "[-2,-3]", "[0,24]"},                  // negative extents
      {"F32", "[2.5]", "[0,10]"},                    // a fraction
      {"F32", "6", "[0,24]"},                        // no list
      {"F32", "[4294967296,4294967296]", "[0,0]"},   // product wraps to zero
      {"F32", "[4611686018427387904,4]", "[0,0]"},   // likewise with the element size
      {"F32", "[9223372036854775808,0]", "[0,0]"},   // does not fit the signed extents
      {"F32", "[1,1,1,1,1,1,6]", "[0,24]"},          // too many dimensions
      {"F32", "[5]", "[2,22]"},                      // not aligned to the element
      {"F8_E4M3", "[24]", "[0,24]"},                 // an element type that is not supported
      {"f32", "[6]", "[0,24]"},                      // types are written large
      {"", "[6]", "[0,24]"},
  };
  for (const auto& fault : faults) {
    check_refused(folder, file_of(tensor(fault.dtype, fault.shape, fault.offsets), 24),
                  std::string(fault.dtype) + " " + fault.shape + " " + fault.offsets);
  }
}

TEST_CASE("safetensors that overlap are refused, neighbours and empty tensors are not") {
  const Folder folder;
  const auto two = [](const std::string& a, const std::string& b) {
    const auto entry = [](const std::string& offsets, const char* shape) {
      return std::string(R"({"dtype":"F32","shape":)") + shape + R"(,"data_offsets":)" + offsets + "}";
    };
    return R"({"a":)" + entry(a, "[2]") + R"(,"b":)" + entry(b, "[2]") + R"(,"empty":)" + entry("[8,8]", "[0,3]") + "}";
  };
  folder.write(file_of(two("[0,8]", "[8,16]"), 16));
  const SafetensorsFile file = read_both(folder.file);
  CHECK(file.names().size() == 3);
  CHECK(file["empty"].shape() == Shape{0, 3});
  check_refused(folder, file_of(two("[0,8]", "[0,8]"), 16), "the same place");
  check_refused(folder, file_of(two("[0,8]", "[4,12]"), 16), "half over the other");
  check_refused(folder, file_of(two("[4,12]", "[0,8]"), 16), "in the other order");
}

TEST_CASE("safetensors with bytes that belong to no tensor, or with a name twice, are refused") {
  const Folder folder;
  const auto entry = [](const char* name, const char* offsets) {
    return fmt::format(R"("{}":{{"dtype":"F32","shape":[2],"data_offsets":{}}})", name, offsets);
  };
  const auto header = [](const std::string& a, const std::string& b) { return "{" + a + "," + b + "}"; };
  folder.write(file_of(header(entry("a", "[0,8]"), entry("b", "[8,16]")), 16));
  CHECK(read_both(folder.file).names().size() == 2);
  check_refused(folder, file_of(header(entry("a", "[0,8]"), entry("b", "[12,20]")), 20), "a gap");
  check_refused(folder, file_of(header(entry("a", "[4,12]"), entry("b", "[12,20]")), 20), "a gap before the first");
  check_refused(folder, file_of(header(entry("a", "[0,8]"), entry("b", "[8,16]")), 17), "more behind the last");
  // A reader that takes the first would have other weights than one that takes the last.
  check_refused(folder, file_of(header(entry("a", "[0,8]"), entry("a", "[8,16]")), 16), "a name twice");
  check_refused(folder, file_of(header(entry("a", "[8,16]"), entry("a", "[0,8]")), 16), "a name twice, the other way");
}

TEST_CASE("a safetensors file that is not there, or is a folder, is an error") {
  const Folder folder;
  CHECK(contains(error_of([&] { read_both(folder.file); }), "No such file or directory"));
  CHECK(contains(error_of([&] { read_both(folder.temporary.path()); }), "Is a directory"));
}

TEST_CASE("every single byte of a header may be wrong without a crash") {
  const Folder folder;
  const HostArray a = random_normal(DType::float32, {2, 3}, 1);
  write_safetensors(folder.file, {{"a", a.array()}}, {{"k", "v"}});
  const std::string whole = folder.bytes();
  int read = 0;
  for (std::size_t at = 0; at + 24 < whole.size(); ++at) {
    for (const int flip : {0x01, 0x10, 0x80}) {
      std::string changed = whole;
      changed[at] = static_cast<char>(changed[at] ^ flip);
      folder.write(changed);
      try {
        const SafetensorsFile file = read_both(folder.file);
        for (const std::string& name : file.names()) CHECK(file[name].size_bytes() <= 24);
        ++read;
      } catch (const Error&) {
      }
    }
  }
  // Other names, metadata and spaces are as good; nearly everything else is not.
  CHECK(read > 0);
  CHECK(read < static_cast<int>(whole.size()));
}

TEST_CASE("A checksum finds every changed byte of a file, and every missing one") {
  const Folder folder;
  const HostArray a = random_normal(DType::float32, {2, 3}, 1);
  const std::vector<NamedSource> sources = {{"a", DType::float32, Shape{2, 3}, [&] { return ConstArray(a.array()); }}};
  write_safetensors(folder.file, sources, {{"k", "its \"checksum\":\"xxh64:0000000000000000\" is text"}},
                    {.checksum = true});
  const std::string whole = folder.bytes();
  CHECK(read_both(folder.file).metadata("checksum").size() == 6 + 16);
  int found_by_it = 0;
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const int flip : {0x01, 0x20, 0x80}) {
      std::string changed = whole;
      changed[at] = static_cast<char>(changed[at] ^ flip);
      folder.write(changed);
      INFO("byte " << at << " ^ " << flip);
      // Where the key itself is hit, the file is one without a checksum.
      const bool is_key =
          at + 18 > whole.find("\"checksum\":\"xxh64:") && at < whole.find("\"checksum\":\"xxh64:") + 18;
      const std::string error = error_of([&] { read_both(folder.file); });
      CHECK((is_key || error.find(folder.file.string()) != std::string::npos));
      found_by_it += contains(error, "is not what was written") ? 1 : 0;
    }
  }
  CHECK(found_by_it > static_cast<int>(2 * whole.size()));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    folder.write(whole.substr(0, size));
    CHECK_THROWS_AS(read_both(folder.file), Error);
  }
  folder.write(whole);
  const SafetensorsFile sound = read_both(folder.file);
  CHECK(std::memcmp(sound["a"].data(), a.array().data(), 24) == 0);

  // Files that are made of another's tensors and metadata do not take over its checksum.
  write_safetensors(folder.file, {{"b", a.array()}}, sound.metadata());
  CHECK_FALSE(read_both(folder.file).metadata().contains("checksum"));
}

TEST_CASE("Tensors are fetched one after the other, in the order of the file") {
  const Folder folder;
  std::vector<std::int64_t> wide = {7, 8};
  std::vector<float> buffer(3);
  std::vector<std::string> order;
  const auto fill = [&](const std::string& name, float value) {
    return [&buffer, &order, name, value] {
      order.push_back(name);
      std::fill(buffer.begin(), buffer.end(), value);
      return ConstArray(buffer.data(), Shape{3});
    };
  };
  write_safetensors(folder.file,
                    {{"x", DType::float32, Shape{3}, fill("x", 1)},
                     {"y", DType::float32, Shape{3}, fill("y", 2)},
                     {"wide", DType::int64, Shape{2},
                      [&] {
                        order.emplace_back("wide");
                        return ConstArray(wide.data(), Shape{2});
                      }}},
                    {});
  CHECK(order == std::vector<std::string>{"wide", "x", "y"});
  const SafetensorsFile file = read_both(folder.file);
  CHECK(file.names() == order);
  CHECK((file["x"].as<float>()[2] == 1 && file["y"].as<float>()[0] == 2 && file["wide"].as<std::int64_t>()[1] == 8));
  // What is fetched must be what the header says.
  CHECK_THROWS_AS(write_safetensors(folder.file, {{"x", DType::float32, Shape{2}, fill("x", 1)}},
                                    std::map<std::string, std::string>()),
                  Error);
}

TEST_CASE("a safetensors file is read whole while others take its place") {
  const Folder folder;
  const std::vector<float> values(5000, 1.0F);
  const auto write = [&](std::int64_t size) {
    write_safetensors(folder.file, {{"x", ConstArray(values.data(), Shape{size})}});
  };
  write(1);
  std::atomic<bool> done = false;
  std::thread writer([&] {
    for (int i = 0; i < 300; ++i) write(i % 2 == 0 ? 5000 : 1);
    done = true;
  });
  int reads = 0;
  std::string errors;
  for (; !done || reads < 300; ++reads)
    errors += error_of([&] {
      const std::int64_t size = SafetensorsFile::read(folder.file)["x"].size();
      require(size == 1 || size == 5000, "test", "got {} elements", size);
      SafetensorsReader reader(folder.file);
      std::vector<float> read(static_cast<std::size_t>(reader.shape("x").size()));
      reader.read("x", std::as_writable_bytes(std::span(read)));
      require(read == std::vector<float>(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(read.size())),
              "test", "got other values");
    });
  writer.join();
  CHECK(errors == "");
}

TEST_CASE("a tensor whose file has been cut meanwhile is an error, and the others can be read") {
  const Folder folder;
  const HostArray a = random_normal(DType::float32, {3}, 1), b = random_normal(DType::float32, {3}, 2);
  write_safetensors(folder.file, {{"a", a.array()}, {"b", b.array()}});
  SafetensorsReader reader(folder.file);
  std::filesystem::resize_file(folder.file, std::filesystem::file_size(folder.file) - 1);
  std::vector<std::byte> bytes(12);
  CHECK(contains(error_of([&] { reader.read("b", bytes); }), "x.safetensors: the file ended early"));
  reader.read("a", bytes);
  CHECK(std::memcmp(bytes.data(), a.array().data(), 12) == 0);
}
