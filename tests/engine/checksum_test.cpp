#include "engine/checksum.h"

#include "tests/support/catch.h"

#include <algorithm>
#include <cstring>
#include <vector>

using namespace dino;

namespace {

std::vector<std::byte> pattern(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>((i * i * 7 + i) % 251);
  return bytes;
}

std::uint64_t checksum_of(std::span<const std::byte> bytes) {
  Checksum sum;
  sum.add(bytes);
  return sum.value();
}

}  // namespace

TEST_CASE("Checksums are XXH64") {
  CHECK(checksum_of(std::as_bytes(std::span("abc", 3))) == 0x44bc2cf5ad770999u);
  // What python-xxhash says of the pattern.
  const std::vector<std::pair<std::size_t, std::uint64_t>> known = {
      {0, 0xef46db3751d8e999u},   {1, 0xe934a84adb052768u},  {3, 0x0a8b0eaaa44d36dcu},  {4, 0xa52c40dc1e458cb4u},
      {7, 0x2a5fe019bc716223u},   {8, 0x2bc9f117fe5c541du},  {12, 0x197d0da43abbf1f7u}, {31, 0x208e23eac0ee3fa5u},
      {32, 0xda7d7a4231ee2ac0u},  {33, 0xf7ced3acea35cc81u}, {64, 0x458839d9490370bbu}, {100, 0x0a4f11d0b53909a7u},
      {1000, 0x93b17183e46861beu}};
  for (const auto& [size, value] : known) {
    INFO(size);
    CHECK(checksum_of(pattern(size)) == value);
  }
}

TEST_CASE("A checksum does not depend on the pieces, and is there after each") {
  const std::vector<std::byte> bytes = pattern(777);
  for (const std::size_t piece : {1, 5, 31, 32, 33, 100}) {
    Checksum sum;
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
      const std::size_t end = std::min(bytes.size(), at + piece);
      sum.add(std::span(bytes).subspan(at, end - at));
      INFO(piece << " at " << at);
      CHECK(sum.value() == checksum_of(std::span(bytes).first(end)));
    }
  }
}

TEST_CASE("Every flipped bit changes the checksum") {
  std::vector<std::byte> bytes = pattern(100);
  const std::uint64_t sound = checksum_of(bytes);
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= std::byte{1} << bit % 8;
    INFO(bit);
    CHECK(checksum_of(bytes) != sound);
    bytes[bit / 8] ^= std::byte{1} << bit % 8;
  }
}
