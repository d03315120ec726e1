// Plans and rooflines rest on what operations say that they cost: what one counts on paper.
#include "benchmarks/benchmark.h"
#include "tests/support/catch.h"

#include <map>
#include <string>

namespace dino {
namespace {

struct OnPaper {
  double bytes, flops;
};

/// For activations of `size` bytes an element. T tokens of width C, K prototypes, P parameters.
std::map<std::string, OnPaper> work_on_paper(const bench::Workload& w, double size) {
  const auto t = static_cast<double>(w.tokens()), c = static_cast<double>(w.width);
  const double global = static_cast<double>(w.global_tokens()), local = static_cast<double>(w.local_tokens());
  const auto images = static_cast<double>(w.images), k = static_cast<double>(w.prototypes);
  const double squares =
      images * (static_cast<double>(w.globals) * global * global + static_cast<double>(w.locals) * local * local);
  const double student_rows = static_cast<double>(w.sequences()), teacher_rows = images * 2;
  const double head = k * static_cast<double>(w.bottleneck);
  return {{"attention forward", {4 * t * c * size, 4 * squares * c}},
          {"attention backward", {8 * t * c * size, 10 * squares * c}},
          {"layer_norm forward", {4 * t * c * size, 8 * t * c}},
          {"layer_norm backward", {5 * t * c * size, 16 * t * c}},
          {"gelu forward", {2 * t * 4 * c * size, 30 * t * 4 * c}},
          {"gelu backward", {3 * t * 4 * c * size, 35 * t * 4 * c}},
          {"column_sum forward", {t * 4 * c * size, 0}},
          {"dino_loss with gradient",
           {(2 * student_rows + teacher_rows) * k * size, 40 * (student_rows + teacher_rows) * k}},
          {"weight_norm forward", {head * (4 + size), 3 * head}},
          {"weight_norm backward", {head * (8 + size), 7 * head}}};
}

TEST_CASE("operations cost what one counts on paper") {
  const auto context = make_cpu_context();
  const bench::Workload workload = bench::workload_of("tiny");
  int compared = 0, counted = 0;
  for (const bench::Benchmark& benchmark : bench::benchmarks()) {
    if (benchmark.whole_program || !benchmark.has_roofline) continue;
    for (const DType dtype : benchmark.dtypes) {
      INFO(benchmark.operation << " " << benchmark.pass << " " << bench::short_name(dtype));
      bench::Bench bench(*context, workload, dtype);
      const bench::Prepared prepared = prepare(benchmark, bench);
      CHECK(prepared.bytes > 0);
      ++counted;
      const auto paper = work_on_paper(workload, static_cast<double>(size_of(dtype)));
      const auto at = paper.find(std::string(benchmark.operation) + " " + std::string(benchmark.pass));
      if (at == paper.end()) continue;
      CHECK(prepared.bytes == Approx(at->second.bytes).epsilon(0.001));
      CHECK(prepared.flops == Approx(at->second.flops).epsilon(0.001));
      ++compared;
    }
  }
  CHECK(compared == 20);
  CHECK(counted > 50);
}

}  // namespace
}  // namespace dino
