#include "benchmarks/textbook/layer_norm.h"

#include "benchmarks/textbook/gpu.h"

namespace dino::bench::textbook {

Call LayerNormForwardSteps::on_gpu(const LayerNormForwardSteps& steps, Stream& stream) {
  return call_of(steps, Gpu(stream));
}
Call LayerNormBackwardSteps::on_gpu(const LayerNormBackwardSteps& steps, Stream& stream) {
  return call_of(steps, Gpu(stream));
}

}  // namespace dino::bench::textbook
