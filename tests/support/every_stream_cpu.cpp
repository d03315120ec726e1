#include "tests/support/every_stream.h"
#include "tests/support/every_target.h"

namespace dino::test {

void every_stream(const std::function<void(Stream&)>& body) {
  const auto stream = make_cpu_stream();
  every_target([&] { body(*stream); });
}

}  // namespace dino::test
