#pragma once

#include "benchmarks/textbook/step.h"
#include "kernels/knn/knn.h"

namespace dino::bench::textbook {

/// All similarities, as a product of matrices; then k times the largest of each row, which is struck out. On a GPU
/// only: at the sizes of an evaluation the product alone would take a CPU minutes.
struct NearestNeighborsSteps {
  NearestNeighbors args;
  Array products;  // (Q, M) fp32

  [[gnu::weak]] static Call on_gpu(const NearestNeighborsSteps& steps, Stream& stream);
};

}  // namespace dino::bench::textbook
