#include "benchmarks/textbook/gelu.h"

#include "benchmarks/textbook/gpu.h"

namespace dino::bench::textbook {

Call GeluForwardSteps::on_gpu(const GeluForwardSteps& steps, Stream& stream) { return call_of(steps, Gpu(stream)); }
Call GeluBackwardSteps::on_gpu(const GeluBackwardSteps& steps, Stream& stream) { return call_of(steps, Gpu(stream)); }

}  // namespace dino::bench::textbook
