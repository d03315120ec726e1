#include "train/event_file.h"

#include "engine/files.h"
#include "kernels/common/error.h"
#include "models/protobuf.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

namespace dino {
namespace {

// Numbers of fields and values in event.proto and summary.proto.
constexpr int kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7;  // Event
constexpr int kSessionStatus = 1, kSessionStart = 1;                                      // SessionLog
constexpr int kValue = 1;                                                                 // Summary
constexpr int kTag = 1, kSimpleValue = 2, kImage = 4;                                     // Summary.Value
constexpr int kHeight = 1, kWidth = 2, kColorspace = 3, kEncoded = 4, kRgb = 3;           // Summary.Image

constexpr std::array<std::uint32_t, 256> kCrcTable = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ ((value & 1U) != 0 ? 0x82F63B78U : 0U);
    table[i] = value;
  }
  return table;
}();

std::string little_endian(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i) & 0xFF);
  return text;
}

/// A CRC is stored turned and shifted, so that the CRC of data that holds CRCs stays a good one.
std::string masked_crc(std::string_view bytes) {
  const std::uint32_t crc = crc32c(bytes);
  return little_endian((crc >> 15 | crc << 17) + 0xA282EAD8U, 4);
}

ProtobufWriter event_at(std::int64_t step) {
  ProtobufWriter event;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  event.real(kWallTime, std::chrono::duration<double>(now).count());
  event.integer(kStep, step);
  return event;
}

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 && name[0] != 0 ? name.data() : "localhost";
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = 0xFFFFFFFFU;
  for (const char c : bytes) crc = crc >> 8 ^ kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 0xFF];
  return ~crc;
}

std::string tf_record(std::string_view bytes) {
  const std::string length = little_endian(bytes.size(), 8);
  return length + masked_crc(length) + std::string(bytes) + masked_crc(bytes);
}

EventFile::EventFile(const std::filesystem::path& folder, std::int64_t first_step) {
  make_output_folder(folder);
  const auto seconds =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  const std::string name = fmt::format("events.out.tfevents.{}.{}.{}", seconds, host_name(), getpid());
  // Two in one second have different names, the later one sorted behind.
  for (int n = 0; n == 0 || std::filesystem::exists(path_); ++n)
    path_ = folder / (n == 0 ? name : fmt::format("{}.{}", name, n));
  file_.open(path_, std::ios::binary);
  ProtobufWriter version = event_at(0);
  version.text(kFileVersion, "brain.Event:2");
  append(version.bytes());
  if (first_step > 0) {
    ProtobufWriter session, event = event_at(first_step);
    session.integer(kSessionStatus, kSessionStart);
    event.message(kSessionLog, session);
    append(event.bytes());
  }
  flush();
}

void EventFile::scalars(std::int64_t step, std::span<const std::pair<std::string, double>> values) {
  ProtobufWriter summary, event = event_at(step);
  for (const auto& [tag, number] : values) {
    ProtobufWriter value;
    value.text(kTag, tag);
    value.real(kSimpleValue, static_cast<float>(number));
    summary.message(kValue, value);
  }
  event.message(kSummary, summary);
  append(event.bytes());
}

void EventFile::picture(std::int64_t step, const EventPicture& picture) {
  ProtobufWriter image, value, summary, event = event_at(step);
  image.integer(kHeight, picture.height);
  image.integer(kWidth, picture.width);
  image.integer(kColorspace, kRgb);
  image.text(kEncoded, picture.bytes);
  value.text(kTag, picture.tag);
  value.message(kImage, image);
  summary.message(kValue, value);
  event.message(kSummary, summary);
  append(event.bytes());
}

void EventFile::flush() {
  file_ << std::flush;
  require(file_.good(), "tensorboard", "cannot write {}: {}", path_.string(), std::strerror(errno));
}

void EventFile::append(const std::string& event) {
  file_ << tf_record(event);
  require(file_.good(), "tensorboard", "cannot write {}: {}", path_.string(), std::strerror(errno));
}

}  // namespace dino
