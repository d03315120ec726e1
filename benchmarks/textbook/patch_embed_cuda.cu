#include "benchmarks/textbook/patch_embed.h"

#include "benchmarks/textbook/gpu.h"

namespace dino::bench::textbook {

Call PatchifySteps::on_gpu(const PatchifySteps& steps, Stream& stream) { return call_of(steps, Gpu(stream)); }
Call AssembleTokensSteps::on_gpu(const AssembleTokensSteps& steps, Stream& stream) {
  return call_of(steps, Gpu(stream));
}
Call AssembleTokensBackwardSteps::on_gpu(const AssembleTokensBackwardSteps& steps, Stream& stream) {
  return call_of(steps, Gpu(stream));
}

}  // namespace dino::bench::textbook
