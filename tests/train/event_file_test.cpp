// TensorBoard's event files, read back by a reader that knows only the published format.
#include "train/event_file.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"

#include <sys/resource.h>

#include <bit>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

using namespace dino;
using namespace dino::test;

namespace {

std::uint64_t little_endian(std::string_view bytes, std::size_t at, int count) {
  std::uint64_t value = 0;
  for (int i = count; i-- > 0;)
    value = value << 8 | static_cast<unsigned char>(bytes[at + static_cast<std::size_t>(i)]);
  return value;
}

/// CRC-32C by long division of the reversed polynomial 0x1EDC6F41, bit by bit.
std::uint32_t slow_crc32c(std::string_view bytes) {
  std::uint32_t remainder = 0xFFFFFFFFU;
  for (const char c : bytes) {
    for (int bit = 0; bit < 8; ++bit) {
      const std::uint32_t in = static_cast<unsigned char>(c) >> bit & 1U;
      const bool carry = (remainder >> 31) != in;
      remainder = remainder << 1 ^ (carry ? 0x1EDC6F41U : 0U);
    }
  }
  std::uint32_t reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (remainder >> bit & 1U) << (31 - bit);
  return ~reversed;
}

bool crc_is(std::uint64_t stored, std::string_view bytes) {
  // Unmasked as tensorflow/core/lib/hash/crc32c.h documents it.
  const std::uint32_t turned = static_cast<std::uint32_t>(stored) - 0xA282EAD8U;
  return slow_crc32c(bytes) == (turned >> 17 | turned << 15);
}

/// The records of a file, every checksum checked.
std::vector<std::string> records_of(std::string_view file) {
  std::vector<std::string> records;
  std::size_t at = 0;
  while (at < file.size()) {
    REQUIRE(file.size() - at >= 16);
    const std::uint64_t length = little_endian(file, at, 8);
    REQUIRE(length <= file.size() - at - 16);
    CHECK(crc_is(little_endian(file, at + 8, 4), file.substr(at, 8)));
    const std::string_view data = file.substr(at + 12, length);
    CHECK(crc_is(little_endian(file, at + 12 + length, 4), data));
    records.emplace_back(data);
    at += 16 + length;
  }
  return records;
}

/// One field of a protobuf message: numbers as they lie, texts and messages as bytes.
struct Field {
  int number = 0;
  std::uint64_t value = 0;
  std::string bytes = {};
};

std::vector<Field> fields_of(const std::string& message) {
  std::vector<Field> fields;
  std::size_t at = 0;
  const auto varint = [&] {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      REQUIRE(at < message.size());
      const auto byte = static_cast<unsigned char>(message[at++]);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.size()) {
    const std::uint64_t key = varint();
    Field field{static_cast<int>(key >> 3)};
    if ((key & 7) == 0) {
      field.value = varint();
    } else if ((key & 7) == 1 || (key & 7) == 5) {
      const int size = (key & 7) == 1 ? 8 : 4;
      REQUIRE(message.size() - at >= static_cast<std::size_t>(size));
      field.value = little_endian(message, at, size);
      at += static_cast<std::size_t>(size);
    } else {
      REQUIRE((key & 7) == 2);
      const std::uint64_t size = varint();
      REQUIRE(size <= message.size() - at);
      field.bytes = message.substr(at, size);
      at += size;
    }
    fields.push_back(field);
  }
  return fields;
}

const Field* find(const std::vector<Field>& fields, int number) {
  for (const Field& field : fields) {
    if (field.number == number) return &field;
  }
  return nullptr;
}

std::string content(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

TEST_CASE("CRC-32C of the published vectors", "[tensorboard]") {
  // RFC 3720 B.4, and the check value of the catalogue of CRC algorithms.
  std::string rising, falling;
  for (int i = 0; i < 32; ++i) {
    rising += static_cast<char>(i);
    falling += static_cast<char>(31 - i);
  }
  CHECK(crc32c(std::string(32, '\0')) == 0x8A9136AAU);
  CHECK(crc32c(std::string(32, '\xFF')) == 0x62A8AB43U);
  CHECK(crc32c(rising) == 0x46DD794EU);
  CHECK(crc32c(falling) == 0x113FDB5CU);
  CHECK(crc32c("123456789") == 0xE3069283U);
  CHECK(crc32c("") == 0);
  CHECK(slow_crc32c("123456789") == 0xE3069283U);  // the test's own
}

TEST_CASE("A record is framed as TFRecord says", "[tensorboard]") {
  const std::string record = tf_record("abc");
  REQUIRE(record.size() == 19);
  CHECK(little_endian(record, 0, 8) == 3);
  CHECK(records_of(record + tf_record("") + tf_record(std::string(1000, 'x'))) ==
        std::vector<std::string>{"abc", "", std::string(1000, 'x')});
}

TEST_CASE("An event file holds what was logged", "[tensorboard]") {
  const TemporaryFolder folder;
  std::filesystem::path path;
  {
    EventFile file(folder.path() / "tensorboard", 0);
    path = file.path();
    const std::vector<std::pair<std::string, double>> values{{"train/loss", 6.25}, {"schedule/lr", 0.001}};
    file.scalars(123456, values);
    file.picture(7, {.tag = "film/attention", .height = 384, .width = 96, .bytes = "not really\0a picture"});
  }
  CHECK(path.filename().string().starts_with("events.out.tfevents."));
  const std::vector<std::string> records = records_of(content(path));
  REQUIRE(records.size() == 3);

  const auto version = fields_of(records[0]);
  REQUIRE(find(version, 3) != nullptr);
  CHECK(find(version, 3)->bytes == "brain.Event:2");
  const auto wall_time = std::bit_cast<double>(find(version, 1)->value);
  CHECK((wall_time > 1.6e9 && wall_time < 1e11));

  const auto event = fields_of(records[1]);
  CHECK(find(event, 2)->value == 123456);
  REQUIRE(find(event, 5) != nullptr);
  std::map<std::string, float> scalars;
  for (const Field& value : fields_of(find(event, 5)->bytes)) {
    CHECK(value.number == 1);
    const auto parts = fields_of(value.bytes);
    scalars[find(parts, 1)->bytes] = std::bit_cast<float>(static_cast<std::uint32_t>(find(parts, 2)->value));
  }
  CHECK(scalars == std::map<std::string, float>{{"train/loss", 6.25F}, {"schedule/lr", 0.001F}});

  const auto picture_event = fields_of(records[2]);
  CHECK(find(picture_event, 2)->value == 7);
  const auto value = fields_of(fields_of(find(picture_event, 5)->bytes)[0].bytes);
  CHECK(find(value, 1)->bytes == "film/attention");
  const auto image = fields_of(find(value, 4)->bytes);
  CHECK(find(image, 1)->value == 384);
  CHECK(find(image, 2)->value == 96);
  CHECK(find(image, 3)->value == 3);
  CHECK(find(image, 4)->bytes == "not really");
}

TEST_CASE("A run that goes on writes a new file, which makes later steps of the old one void", "[tensorboard]") {
  const TemporaryFolder folder;
  const EventFile first(folder.path(), 0), second(folder.path(), 40);
  CHECK(first.path() != second.path());
  CHECK(first.path().filename() < second.path().filename());
  CHECK(records_of(content(first.path())).size() == 1);
  const std::vector<std::string> records = records_of(content(second.path()));
  REQUIRE(records.size() == 2);
  const auto event = fields_of(records[1]);
  CHECK(find(event, 2)->value == 40);
  REQUIRE(find(event, 7) != nullptr);
  CHECK(find(fields_of(find(event, 7)->bytes), 1)->value == 1);  // SessionLog.START
}

TEST_CASE("A folder that cannot be written is an error", "[tensorboard]") {
  const TemporaryFolder folder;
  folder.write("file", "");
  CHECK(!error_of([&] { EventFile file(folder.path() / "file" / "tensorboard", 0); }).empty());
  EventFile file(folder.path() / "tensorboard", 0);
  const std::string picture(100'000, 'x');
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit none{std::filesystem::file_size(file.path()), before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &none);
  const std::string error = error_of([&] {
    file.picture(1, {.tag = "x", .height = 1, .width = 1, .bytes = picture});
    file.flush();
  });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK(error == "[tensorboard] cannot write " + file.path().string() + ": File too large");
}
