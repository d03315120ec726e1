// What libFuzzer calls for each input, and replay.cpp for each file.
#include "kernels/common/error.h"
#include "tests/fuzz/target.h"

#include <cstdio>
#include <cstdlib>

namespace dino::fuzz {

const test::TemporaryFolder& folder() {
  static const test::TemporaryFolder folder;
  return folder;
}

void expect(bool holds, std::string_view what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %.*s\n", static_cast<int>(what.size()), what.data());
  std::abort();
}

}  // namespace dino::fuzz

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  try {
    dino::fuzz::try_input(std::as_bytes(std::span(data, size)));
  } catch (const dino::Error& error) {
    const std::string_view message = error.what();
    dino::fuzz::expect(message.starts_with('[') && message.find("] ") != std::string_view::npos,
                       "an error says where it comes from");
  }
  return 0;
}
