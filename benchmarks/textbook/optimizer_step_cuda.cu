#include "benchmarks/textbook/optimizer_step.h"

#include "benchmarks/textbook/gpu.h"

namespace dino::bench::textbook {

Call GradientNormsSteps::on_gpu(const GradientNormsSteps& steps, Stream& stream) { return call_of(steps, Gpu(stream)); }
Call AdamwSteps::on_gpu(const AdamwSteps& steps, Stream& stream) { return call_of(steps, Gpu(stream)); }

}  // namespace dino::bench::textbook
