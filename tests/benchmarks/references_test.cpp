#include "benchmarks/benchmark.h"

#include "tests/support/catch.h"

#include <cmath>
#include <string>
#include <vector>

namespace dino {
namespace {

std::vector<double> values_of(const Array& array) {
  std::vector<double> values(static_cast<std::size_t>(array.size()));
  for (std::int64_t i = 0; i < array.size(); ++i) {
    values[static_cast<std::size_t>(i)] =
        array.dtype() == DType::uint8 ? static_cast<double>(array.as<std::uint8_t>()[i]) : load_double(array, i);
  }
  return values;
}

/// ‖a − b‖ / ‖b‖; NaN where a value is, and where there is nothing but zeros to compare.
double relative_distance(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

TEST_CASE("what the kernels are compared with computes the same") {
  const auto context = make_cpu_context();
  const bench::Workload workload = bench::workload_of("tiny");
  int compared = 0;
  for (const bench::Benchmark& benchmark : bench::benchmarks()) {
    if (benchmark.whole_program) continue;
    for (const DType dtype : benchmark.dtypes) {
      bench::Bench bench(*context, workload, dtype);
      const bench::Prepared prepared = bench::prepare(benchmark, bench);
      if (prepared.restore) prepared.restore();
      prepared.run();
      std::vector<std::vector<double>> expected;
      for (const Array& output : prepared.outputs) expected.push_back(values_of(output));
      for (const bench::Reference& reference : prepared.references) {
        INFO(benchmark.operation << " " << benchmark.pass << " " << bench::short_name(dtype) << " " << reference.name);
        REQUIRE_FALSE(prepared.outputs.empty());
        for (const Array& output : prepared.outputs) bench.stream().zero(output.data(), output.size_bytes());
        if (prepared.restore) prepared.restore();
        reference.run();
        for (std::size_t i = 0; i < prepared.outputs.size(); ++i) {
          // bf16 results that were rounded after each step differ by a few units of 2⁻⁹, fp32 sums in other orders by
          // far less than 1e-3.
          const double tolerance = dtype == DType::bfloat16 ? 1.5e-2 : 1e-3;
          INFO("output " << i);
          CHECK(relative_distance(values_of(prepared.outputs[i]), expected[i]) <= tolerance);
          ++compared;
        }
      }
    }
  }
  CHECK(compared > 60);
}

TEST_CASE("every kernel folder has a benchmark") {
  for (const char* operation :
       {"attention", "augment", "batch_norm", "cast", "column_sum", "dino_loss", "gather_rows", "gelu", "knn",
        "l2_normalize", "layer_norm", "matmul", "optimizer_step", "patch_embed", "pos_embed", "weight_norm"}) {
    bool found = false;
    for (const bench::Benchmark& benchmark : bench::benchmarks()) found |= benchmark.operation == operation;
    INFO(operation);
    CHECK(found);
  }
}

}  // namespace
}  // namespace dino
