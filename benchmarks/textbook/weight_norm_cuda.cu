#include "benchmarks/textbook/weight_norm.h"

#include "benchmarks/textbook/gpu.h"

namespace dino::bench::textbook {

Call WeightNormSteps::on_gpu(const WeightNormSteps& steps, Stream& stream) { return call_of(steps, Gpu(stream)); }
Call WeightNormBackwardSteps::on_gpu(const WeightNormBackwardSteps& steps, Stream& stream) {
  return call_of(steps, Gpu(stream));
}

}  // namespace dino::bench::textbook
