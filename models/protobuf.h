#pragma once

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>

namespace dino {

/// Writes one message of Google's protobuf encoding, field by field (protobuf.dev/programming-guides/encoding).
class ProtobufWriter {
 public:
  const std::string& bytes() const { return bytes_; }

  void integer(int field, std::int64_t value) {
    tag(field, 0);
    varint(static_cast<std::uint64_t>(value));
  }
  void real(int field, float value) {
    tag(field, 5);
    const auto bits = std::bit_cast<std::uint32_t>(value);
    for (int shift = 0; shift < 32; shift += 8) bytes_ += static_cast<char>((bits >> shift) & 0xff);
  }
  void real(int field, double value) {
    tag(field, 1);
    const auto bits = std::bit_cast<std::uint64_t>(value);
    for (int shift = 0; shift < 64; shift += 8) bytes_ += static_cast<char>((bits >> shift) & 0xff);
  }
  void text(int field, std::string_view value) {
    begin_bytes(field, value.size());
    bytes_ += value;
  }
  void message(int field, const ProtobufWriter& value) { text(field, value.bytes_); }
  /// What comes before `size` bytes of a text or message that are written by other means.
  void begin_bytes(int field, std::uint64_t size) {
    tag(field, 2);
    varint(size);
  }

 private:
  void tag(int field, int wire_type) {
    varint(static_cast<std::uint64_t>(field) << 3 | static_cast<unsigned>(wire_type));
  }
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

}  // namespace dino
