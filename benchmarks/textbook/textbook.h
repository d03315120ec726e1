#pragma once

#include "benchmarks/benchmark.h"
#include "benchmarks/textbook/step.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace dino::bench::textbook {

/// Steps as loops, compiled with -O3 and split between threads with OpenMP.
class Cpu {
 public:
  struct Row {
    template <typename Body>
    void each(std::int64_t count, const Body& body) const {
      for (std::int64_t i = 0; i < count; ++i) body(i);
    }
    template <typename Body>
    void each(std::int64_t count, std::int64_t of_each, const Body& body) const {
      for (std::int64_t i = 0; i < count; ++i) {
        for (std::int64_t j = 0; j < of_each; ++j) body(i, j);
      }
    }
    template <typename Value>
    auto sum(std::int64_t count, const Value& value) const {
      decltype(value(count)) total{};
      for (std::int64_t i = 0; i < count; ++i) total += value(i);
      return total;
    }
    template <typename Value>
    auto max(std::int64_t count, const Value& value) const {
      auto largest = value(0);
      for (std::int64_t i = 1; i < count; ++i) largest = std::max(largest, value(i));
      return largest;
    }
  };

  template <typename Body>
  void for_each(std::int64_t count, const Body& body) const {
#pragma omp parallel for simd schedule(static)
    for (std::int64_t i = 0; i < count; ++i) body(i);
  }
  template <typename Body>
  void for_rows(std::int64_t rows, std::int64_t, const Body& body) const {
#pragma omp parallel for schedule(static)
    for (std::int64_t r = 0; r < rows; ++r) body(Row{}, r);
  }
  template <typename Value, typename Finish>
  void sum_columns(std::int64_t rows, std::int64_t columns, const Value& value, const Finish& finish) const {
    std::vector<float> sums(static_cast<std::size_t>(columns), 0.0F);
    float* totals = sums.data();
#pragma omp parallel for reduction(+ : totals[:columns])
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < columns; ++c) totals[c] += value(r, c);
    }
    for (std::int64_t c = 0; c < columns; ++c) finish(c, totals[c]);
  }
};

/// Where the bench is on a GPU, adds the textbook there, or why there is none. Steps::on_gpu is weak: part of programs
/// with CUDA.
template <typename Steps>
void add_on_gpu(Bench& bench, Prepared& prepared, const Steps& steps) {
  if (bench.on_cpu() || !bench.compares()) return;
  if (&Steps::on_gpu != nullptr) {
    prepared.references.push_back({"textbook", Steps::on_gpu(steps, bench.stream())});
  } else {
    prepared.left_out.push_back({"textbook", "[bench] this program was built without the textbook's CUDA kernels"});
  }
}

/// The same on every device.
template <typename Steps>
void add(Bench& bench, Prepared& prepared, const Steps& steps) {
  if (bench.on_cpu()) {
    prepared.references.push_back({"textbook", call_of(steps, Cpu{})});
  } else {
    add_on_gpu(bench, prepared, steps);
  }
}

}  // namespace dino::bench::textbook
