// The textbook's CUDA kernels, with which `dino_cuda bench` compares on a GPU, run on the host: they compute what the
// operations' do.
#include "benchmarks/agreement.h"
#include "tests/simt/host_stream.h"
#include "tests/support/catch.h"

#include <algorithm>
#include <initializer_list>
#include <vector>

namespace dino {
namespace {

/// Benchmarks that have no textbook on a GPU: crops are defined by their steps in 8 bits, of which a textbook would
/// take none apart.
bool goes_without(const bench::Benchmark& benchmark) { return benchmark.operation == "augment"; }

/// With the threads of a block in each of these orders.
using Schedules = std::initializer_list<simt::Schedule>;
constexpr Schedules kEveryOrder{simt::Schedule::shuffled, simt::Schedule::descending, simt::Schedule::ascending};
constexpr Schedules kOneOrder{simt::Schedule::ascending};

void check_textbook(const bench::Benchmark& benchmark, DType dtype, Schedules schedules) {
  INFO(benchmark.operation << " " << benchmark.pass << " " << bench::short_name(dtype));
  const auto context = simt::make_host_context();
  bench::Bench bench(*context, bench::workload_of("tiny"), dtype);
  const bench::Prepared prepared = benchmark.prepare(bench);
  const auto textbook = std::find_if(prepared.references.begin(), prepared.references.end(),
                                     [](const bench::Reference& r) { return r.name == "textbook"; });
  if (goes_without(benchmark)) {
    CHECK(textbook == prepared.references.end());
    if (benchmark.pass == "local") prepared.run();  // the others take the host long
    return;
  }
  if (textbook == prepared.references.end()) {
    FAIL_CHECK("there is no textbook");
    return;
  }
  CHECK(textbook->outputs.empty());  // it writes all
  const bench::Agreement agreement(prepared, bench.stream(), dtype);
  for (const simt::Schedule schedule : schedules) {
    simt::set_schedule(schedule);  // the last one is what it was
    const std::vector<double> distances = agreement.distances(*textbook);
    CHECK(distances.size() == prepared.outputs.size());
    for (const double distance : distances) CHECK(distance <= agreement.tolerance());
  }
}

/// All benchmarks of kernels; returns how many there are.
int check_textbooks(DType dtype, bool products, Schedules schedules = kOneOrder) {
  int count = 0;
  for (const bench::Benchmark& benchmark : bench::benchmarks()) {
    if (benchmark.whole_program || (benchmark.operation == "matmul") != products) continue;
    if (std::find(benchmark.dtypes.begin(), benchmark.dtypes.end(), dtype) == benchmark.dtypes.end()) continue;
    check_textbook(benchmark, dtype, schedules);
    ++count;
  }
  return count;
}

TEST_CASE("the textbook's CUDA kernels compute what the operations do in fp32") {
  const int count = check_textbooks(DType::float32, false, kEveryOrder);
  CHECK(count > 20);
}
TEST_CASE("the textbook's CUDA kernels compute what the operations do in bf16") {
  const int count = check_textbooks(DType::bfloat16, false);
  CHECK(count > 15);
}
TEST_CASE("what has no textbook on a GPU runs there") {
  const int count = check_textbooks(DType::uint8, false);
  CHECK(count == 3);
}
TEST_CASE("the textbook's CUDA products are those of the operation in fp32") {
  const int count = check_textbooks(DType::float32, true);
  CHECK(count == 12);
}
TEST_CASE("the textbook's CUDA products are those of the operation in bf16") {
  const int count = check_textbooks(DType::bfloat16, true);
  CHECK(count == 12);
}

}  // namespace
}  // namespace dino
