#include "benchmarks/textbook/l2_normalize.h"

#include "benchmarks/textbook/gpu.h"

namespace dino::bench::textbook {

Call L2NormalizeSteps::on_gpu(const L2NormalizeSteps& steps, Stream& stream) { return call_of(steps, Gpu(stream)); }
Call L2NormalizeBackwardSteps::on_gpu(const L2NormalizeBackwardSteps& steps, Stream& stream) {
  return call_of(steps, Gpu(stream));
}

}  // namespace dino::bench::textbook
