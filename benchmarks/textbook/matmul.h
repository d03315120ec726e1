#pragma once

#include "benchmarks/textbook/step.h"
#include "kernels/matmul/matmul.h"

namespace dino::bench::textbook {

/// y = op(a)·op(b) [+ bias] and the GELU: on the CPU row by row, the innermost loop over the columns of y or over the
/// sum; on a GPU by tiles of 16 x 16 in shared memory (plain_matmul), then the GELU.
struct MatmulSteps {
  Matmul args;

  [[gnu::weak]] static Call on_gpu(const MatmulSteps& steps, Stream& stream);

  void run(const Cpu& on) const;  // matmul_benchmark.cpp
};

}  // namespace dino::bench::textbook
