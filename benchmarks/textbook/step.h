#pragma once

#include "kernels/common/array.h"
#include "kernels/common/stream.h"
#ifdef __CUDACC__
#include "kernels/common/cuda/device.h"
#endif

#include <cmath>
#include <cstdint>
#include <functional>

/// Marks a lambda that does one step of a formula, on the CPU or as a kernel: `on.for_each(n, [=]
/// DINO_STEP(std::int64_t i) { y[i] = 2 * x[i]; })`.
#ifdef __CUDACC__
#define DINO_STEP __device__
#else
#define DINO_STEP
#endif

/// References that a textbook would write: one loop over memory, on a GPU one kernel, for each step of the formula,
/// nothing fused. A formula is a struct NAMESteps in a header of this folder, of the operation's arguments and the
/// scratch memory that it needs. Its run(on) puts the steps on a machine, Cpu (textbook.h) or Gpu (gpu.h), with few
/// words:
///   on.for_each(n, body)              body(i) for every element
///   on.for_rows(rows, columns, body)  body(row, r) for every row; `columns` is about what its words below are given
///     row.each(n, f)                    f(i) for each of n elements
///     row.each(n, m, f)                 f(i, j) for each pair
///     row.sum(n, f), row.max(n, f)      the sum of f(i) over n elements, or the largest of at least one
///   on.sum_columns(rows, columns, f, finish)  finish(c, sum of f(r, c) over all rows) for every column
/// On a GPU a row is a block's. Each of its threads does what a body does beside these words: it may write what all of
/// them agree on. A product of matrices and attention are not the same loops on both; there, run() is the CPU's alone.
namespace dino::bench::textbook {

using Call = std::function<void()>;

class Cpu;

/// The element types' values as fp32, and back.
#ifdef __CUDACC__
DINO_STEP inline float get(float value) { return value; }
DINO_STEP inline float get(BFloat16 value) { return cuda::to_float(value); }
template <typename T>
DINO_STEP T put(float value) {
  return cuda::from_float<T>(value);
}
#else
inline float get(float value) { return value; }
inline float get(BFloat16 value) { return static_cast<float>(value); }
template <typename T>
T put(float value) {
  return T(value);
}
#endif

/// The steps as a call; for the element type that `type()` says, where there is one.
template <typename Steps, typename Machine>
Call call_of(const Steps& steps, const Machine& on) {
  return [=] {
    if constexpr (requires { steps.type(); }) {
      visit_compute_type(steps.type(), "bench", [&](auto zero) { steps.template run<decltype(zero)>(on); });
    } else {
      steps.run(on);
    }
  };
}

}  // namespace dino::bench::textbook
