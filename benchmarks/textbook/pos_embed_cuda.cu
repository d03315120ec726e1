#include "benchmarks/textbook/pos_embed.h"

#include "benchmarks/textbook/gpu.h"

namespace dino::bench::textbook {

Call ResizePosEmbedSteps::on_gpu(const ResizePosEmbedSteps& steps, Stream& stream) {
  return call_of(steps, Gpu(stream));
}
Call ResizePosEmbedBackwardSteps::on_gpu(const ResizePosEmbedBackwardSteps& steps, Stream& stream) {
  return call_of(steps, Gpu(stream));
}

}  // namespace dino::bench::textbook
