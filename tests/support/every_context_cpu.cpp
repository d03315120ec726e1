#include "tests/support/every_context.h"

namespace dino::test {

void every_context(const std::function<void(Context&)>& body) { body(*make_cpu_context()); }

}  // namespace dino::test
