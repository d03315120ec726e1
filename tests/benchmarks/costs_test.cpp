// The costs by which a plan is made are those by which the benchmarks judge the kernels.
#include "benchmarks/benchmark.h"
#include "tests/support/catch.h"
#include "train/step_cost.h"

namespace dino {
namespace {

TEST_CASE("the cost of an operation is what its benchmark states") {
  const auto context = make_cpu_context();
  const bench::Workload workload = bench::workload_of("tiny");
  int compared = 0;
  for (const bench::Benchmark& benchmark : bench::benchmarks()) {
    if (benchmark.whole_program) continue;
    for (const DType dtype : benchmark.dtypes) {
      bench::Bench bench(*context, workload, dtype);
      const bench::Prepared prepared = benchmark.prepare(bench);
      OperationCounter counter(context->stream(), OperationCounter::Timing::none);
      prepared.run();
      const Work work = total_work(counter.operations());
      INFO(benchmark.operation << " " << benchmark.pass << " " << bench::short_name(dtype));
      if (benchmark.operation == "augment") continue;  // counts crops
      CHECK(work.bytes == Approx(prepared.bytes).epsilon(0.02));
      if (prepared.flops > 0) CHECK(work.flops == Approx(prepared.flops).epsilon(0.02));
      ++compared;
    }
  }
  CHECK(compared > 50);
}

}  // namespace
}  // namespace dino
