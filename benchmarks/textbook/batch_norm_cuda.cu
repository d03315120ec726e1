#include "benchmarks/textbook/batch_norm.h"

#include "benchmarks/textbook/gpu.h"

namespace dino::bench::textbook {

Call BatchNormForwardSteps::on_gpu(const BatchNormForwardSteps& steps, Stream& stream) {
  return call_of(steps, Gpu(stream));
}
Call BatchNormBackwardSteps::on_gpu(const BatchNormBackwardSteps& steps, Stream& stream) {
  return call_of(steps, Gpu(stream));
}

}  // namespace dino::bench::textbook
