#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

// What the ranks of a TcpCommunicator send each other. For tcp*.cpp alone.

namespace dino::tcp_wire {

inline constexpr std::uint64_t kMagic = 0x316b6e61726f6e64;  // `dnorank1`, which no other protocol begins with
inline constexpr std::uint32_t kFrameMagic = 0x6d617266;

enum class HelloKind : std::uint32_t { control, data };

/// What every connection begins with. Both ends are this program, built for one kind of machine.
struct Hello {
  std::uint64_t magic = kMagic;
  std::uint64_t key = 0;
  HelloKind kind = HelloKind::control;
  std::uint32_t rank = 0, size = 0;
  std::uint32_t port = 0;  // where the rank takes data connections
  std::uint32_t process = 0;
  char host[64] = {};
};

/// A line of the table that rank 0 sends round.
struct TableEntry {
  char address[64] = {};
  std::uint32_t port = 0;
  std::uint32_t process = 0;
  char host[64] = {};
};

enum ControlKind : std::uint32_t { kTable, kAbort, kBye };
struct ControlHeader {
  std::uint32_t kind = 0;
  std::uint32_t bytes = 0;
};
inline constexpr std::uint32_t kMostControlBytes = 1u << 20;

/// In front of every piece of data.
struct Frame {
  std::uint32_t magic = kFrameMagic;
  std::uint32_t sequence = 0;
  std::uint64_t bytes = 0;
  char name[48] = {};
};

template <std::size_t size>
void set_text(char (&field)[size], std::string_view text) {
  const std::size_t count = std::min(size - 1, text.size());
  std::copy_n(text.data(), count, field);
}
template <std::size_t size>
std::string_view text_of(const char (&field)[size]) {
  return {field, strnlen(field, size)};
}

template <typename T>
std::span<std::byte> bytes_of(T& value) {
  return std::as_writable_bytes(std::span(&value, 1));
}

}  // namespace dino::tcp_wire
