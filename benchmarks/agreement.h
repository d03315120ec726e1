#pragma once

#include "benchmarks/benchmark.h"

#include <cstddef>
#include <vector>

namespace dino::bench {

/// Whether references compute what the kernel does: a ratio to one that does not would mean nothing.
class Agreement {
 public:
  /// Runs the kernel and keeps the results. `dtype`: what the benchmark was prepared for.
  Agreement(const Prepared& prepared, Stream& stream, DType dtype);

  /// Runs a reference on outputs of zeros and gives for each that it writes ‖reference − kernel‖ / ‖kernel‖; NaN where
  /// a value is, or where the kernel's are nothing but zeros.
  std::vector<double> distances(const Reference& reference) const;
  /// bf16 results that were rounded after each step differ by a few units of 2⁻⁹, fp32 sums in other orders by far less
  /// than 1e-3.
  double tolerance() const { return dtype_ == DType::bfloat16 ? 1.5e-2 : 1e-3; }

 private:
  const Prepared& prepared_;
  Stream& stream_;
  DType dtype_;
  std::vector<std::vector<std::byte>> expected_;  // by output
};

/// Moves the references that do not agree, or fail, to `left_out`, with the reason.
void leave_out_wrong_references(Prepared& prepared, Stream& stream, DType dtype);

}  // namespace dino::bench
