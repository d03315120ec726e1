#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dino::fuzz {

/// A zip file whose entries are stored without compression, with right sizes and checksums.
inline std::string stored_zip(const std::vector<std::pair<std::string, std::string_view>>& entries) {
  const auto number = [](std::uint64_t value, int size_bytes) {
    std::string text;
    for (int i = 0; i < size_bytes; ++i) text += static_cast<char>(value >> (8 * i));
    return text;
  };
  const auto checksum = [](std::string_view bytes) {
    std::uint32_t crc = 0xFFFFFFFF;
    for (const char c : bytes) {
      crc ^= static_cast<unsigned char>(c);
      for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xEDB88320u : 0u);
    }
    return ~crc;
  };
  std::string file, table;
  for (const auto& [name, content] : entries) {
    // Version, flags, method, time and date are 0.
    const std::string common = std::string("\x14\0\0\0\0\0\0\0\0\0", 10) + number(checksum(content), 4) +
                               number(content.size(), 4) + number(content.size(), 4) + number(name.size(), 2) +
                               number(0, 2);
    table += std::string("PK\1\2\x14\0", 6) + common + std::string(10, '\0') + number(file.size(), 4) + name;
    file += "PK\3\4" + common + name + std::string(content);
  }
  const std::string end = std::string("PK\5\6\0\0\0\0", 8) + number(entries.size(), 2) + number(entries.size(), 2) +
                          number(table.size(), 4) + number(file.size(), 4) + number(0, 2);
  return file + table + end;
}

}  // namespace dino::fuzz
