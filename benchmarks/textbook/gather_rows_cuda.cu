#include "benchmarks/textbook/gather_rows.h"

#include "benchmarks/textbook/gpu.h"

namespace dino::bench::textbook {

Call GatherRowsSteps::on_gpu(const GatherRowsSteps& steps, Stream& stream) { return call_of(steps, Gpu(stream)); }
Call GatherRowsBackwardSteps::on_gpu(const GatherRowsBackwardSteps& steps, Stream& stream) {
  return call_of(steps, Gpu(stream));
}

}  // namespace dino::bench::textbook
