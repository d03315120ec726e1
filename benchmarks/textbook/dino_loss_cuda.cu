#include "benchmarks/textbook/dino_loss.h"

#include "benchmarks/textbook/gpu.h"

namespace dino::bench::textbook {

Call DinoLossSteps::on_gpu(const DinoLossSteps& steps, Stream& stream) { return call_of(steps, Gpu(stream)); }

}  // namespace dino::bench::textbook
