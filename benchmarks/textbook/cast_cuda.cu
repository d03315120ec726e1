#include "benchmarks/textbook/cast.h"

#include "benchmarks/textbook/gpu.h"

namespace dino::bench::textbook {

Call CastSteps::on_gpu(const CastSteps& steps, Stream& stream) { return call_of(steps, Gpu(stream)); }

}  // namespace dino::bench::textbook
