#include "tests/simt/host_stream.h"
#include "tests/support/every_context.h"

namespace dino::test {

void every_context(const std::function<void(Context&)>& body) { body(*simt::make_host_context()); }

}  // namespace dino::test
