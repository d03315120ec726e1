// The same benchmarks in Google Benchmark's harness: its filters, its outputs, warm caches.
//   google_benchmark [--shape=vits16] [--benchmark_filter=gelu] …
#include "benchmarks/benchmark.h"

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstring>
#include <memory>

using namespace dino;
using namespace dino::bench;

namespace {

void run_benchmark(::benchmark::State& state, const Benchmark& definition, const Workload& workload, DType dtype) {
  const std::unique_ptr<Context> context = make_cpu_context();
  Bench bench(*context, workload, dtype);
  const Prepared prepared = prepare(definition, bench);
  for (auto _ : state) prepared.run();
  const auto rate = [&](double amount) {
    return ::benchmark::Counter(amount, ::benchmark::Counter::kIsIterationInvariantRate);
  };
  if (prepared.bytes > 0) state.counters["bytes/s"] = rate(prepared.bytes);
  if (prepared.flops > 0) state.counters["flop/s"] = rate(prepared.flops);
  if (prepared.items > 0) state.counters[fmt::format("{}/s", prepared.item)] = rate(prepared.items);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::string_view shape = "vits16";
    constexpr std::string_view kShape = "--shape=";
    int kept = 0;
    for (int i = 0; i < argc; ++i) {
      if (std::string_view(argv[i]).starts_with(kShape)) {
        shape = std::string_view(argv[i]).substr(kShape.size());
      } else {
        argv[kept++] = argv[i];
      }
    }
    argc = kept;
    const Workload workload = workload_of(shape);
    ::benchmark::Initialize(&argc, argv);
    if (::benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
    for (const Benchmark& definition : benchmarks()) {
      for (const DType dtype : definition.dtypes) {
        const std::string name = fmt::format("{}/{}/{}", definition.operation, definition.pass, short_name(dtype));
        ::benchmark::RegisterBenchmark(
            name.c_str(), [=](::benchmark::State& state) { run_benchmark(state, definition, workload, dtype); })
            ->UseRealTime()
            ->Unit(::benchmark::kMillisecond);
      }
    }
    ::benchmark::RunSpecifiedBenchmarks();
  } catch (const std::exception& error) {
    fmt::print(stderr, "google_benchmark: {}\n", error.what());
    return 1;
  }
}
