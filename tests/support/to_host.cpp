#include "tests/support/every_context.h"

namespace dino::test {

HostArray to_host(Context& context, const Tensor& tensor) {
  HostArray host(tensor.dtype(), tensor.shape());
  context.copy_to_host(tensor, host);
  return host;
}

}  // namespace dino::test
