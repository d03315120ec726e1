#include "benchmarks/textbook/column_sum.h"

#include "benchmarks/textbook/gpu.h"

namespace dino::bench::textbook {

Call ColumnSumSteps::on_gpu(const ColumnSumSteps& steps, Stream& stream) { return call_of(steps, Gpu(stream)); }

}  // namespace dino::bench::textbook
