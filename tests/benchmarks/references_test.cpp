#include "benchmarks/agreement.h"

#include "tests/support/catch.h"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

namespace dino {
namespace {

TEST_CASE("what the kernels are compared with computes the same") {
  const auto context = make_cpu_context();
  const bench::Workload workload = bench::workload_of("tiny");
  int compared = 0;
  for (const bench::Benchmark& benchmark : bench::benchmarks()) {
    if (benchmark.whole_program) continue;
    for (const DType dtype : benchmark.dtypes) {
      bench::Bench bench(*context, workload, dtype);
      const bench::Prepared prepared = bench::prepare(benchmark, bench);
      const bench::Agreement agreement(prepared, bench.stream(), dtype);
      for (const bench::Reference& reference : prepared.references) {
        INFO(benchmark.operation << " " << benchmark.pass << " " << bench::short_name(dtype) << " " << reference.name);
        for (const double distance : agreement.distances(reference)) {
          CHECK(distance <= agreement.tolerance());
          ++compared;
        }
      }
    }
  }
  CHECK(compared > 60);
}

TEST_CASE("a reference that computes something else is left out, with the distance") {
  const auto context = make_cpu_context();
  bench::Bench bench(*context, bench::workload_of("tiny"), DType::float32);
  const Array y = bench.zeros(DType::float32, {100}), other = bench.zeros(DType::float32, {3});
  const auto fills = [&](float value, std::int64_t count) {
    return [=, &bench] {
      bench.stream().zero(y.data(), y.size_bytes());
      for (std::int64_t i = 0; i < count; ++i) y.as<float>()[i] = value;
    };
  };
  const auto prepared_with = [&](const std::function<void()>& reference, const std::vector<Array>& outputs) {
    bench::Prepared prepared{.size = "100", .run = [=] {
                               fills(2, 100)();
                               std::fill_n(other.as<float>(), 3, 5.0F);
                             }};
    prepared.outputs = {y, other};
    prepared.references = {{"right", prepared.run}, {"other", reference, outputs}};
    bench::leave_out_wrong_references(prepared, bench.stream(), DType::float32);
    return prepared;
  };
  const auto left_out = [&](const std::function<void()>& reference, const std::vector<Array>& outputs) {
    const bench::Prepared prepared = prepared_with(reference, outputs);
    REQUIRE(prepared.references.front().name == "right");
    CHECK(prepared.references.size() + prepared.left_out.size() == 2);
    return prepared.left_out.empty() ? "" : prepared.left_out.front().name + ": " + prepared.left_out.front().reason;
  };
  CHECK(left_out(fills(2.001F, 100), {y}).empty());
  CHECK(left_out(fills(2.01F, 100), {y}).starts_with("other: its results differ from the kernel's by 5.0e-03"));
  CHECK(left_out(fills(2, 99), {y}).starts_with("other: its results differ from the kernel's by 1.0e-01"));
  CHECK(left_out([] {}, {y}).starts_with("other: its results differ from the kernel's by 1.0e+00"));
  CHECK(left_out(fills(std::numeric_limits<float>::quiet_NaN(), 100), {y}).find("by nan") != std::string::npos);
  // `other` is not written.
  CHECK(left_out(fills(2, 100), {}).starts_with("other: its results differ from the kernel's by 1.0e+00"));
  CHECK(left_out([] { fail("cudnn", "no such engine"); }, {y}) == "other: [cudnn] no such engine");
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
