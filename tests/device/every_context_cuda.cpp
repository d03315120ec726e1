#include "engine/context_cuda.h"
#include "tests/support/catch.h"
#include "tests/support/every_context.h"

namespace dino::test {

void every_context(const std::function<void(Context&)>& body) {
  INFO("on the GPU");
  body(*make_cuda_context(0, 0.5));
}

}  // namespace dino::test
