#pragma once

#include "kernels/common/array.h"

#include <cstdint>

/// Helpers for the references that a textbook would write: one loop over memory for each step of the formula, compiled
/// with -O3 and split between threads with OpenMP, nothing fused.
namespace dino::bench::textbook {

/// The element types' values as fp32, and back.
inline float get(float value) { return value; }
inline float get(BFloat16 value) { return static_cast<float>(value); }
template <typename T>
T put(float value) {
  return T(value);
}

/// Calls `body(row)` for every row, on all threads.
template <typename Body>
void for_rows(std::int64_t rows, const Body& body) {
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) body(row);
}

/// Calls `body(i)` for every element, on all threads.
template <typename Body>
void for_elements(std::int64_t count, const Body& body) {
#pragma omp parallel for simd schedule(static)
  for (std::int64_t i = 0; i < count; ++i) body(i);
}

/// A textbook's function of arrays for the element type of `array`: `dispatch(x, [=](auto t) { … decltype(t) … })`.
template <typename Body>
void dispatch(const Array& array, const Body& body) {
  visit_compute_type(array.dtype(), "bench", body);
}

}  // namespace dino::bench::textbook
