#pragma once

#include "benchmarks/textbook/step.h"
#include "kernels/attention/attention.h"

namespace dino::bench::textbook {

/// All scores, their softmax, the weighted sum; the (N, N) matrices in memory: on the CPU that of one sequence and head
/// at a time, on a GPU (attention_cuda.cu) all of them, as one step after the other wants them.
struct AttentionForwardSteps {
  AttentionForward args;
  Array sequence_of;  // (T) int32; this and what follows for a GPU
  Array scores;       // (H, T, longest) fp32

  [[gnu::weak]] static Call on_gpu(const AttentionForwardSteps& steps, Stream& stream);
  DType type() const { return args.out.dtype(); }

  template <typename T>
  void run(const Cpu& on) const;  // attention_benchmark.cpp
};

/// The formula of the kernel's header, the probabilities and their gradient each in (N, N) matrices.
struct AttentionBackwardSteps {
  AttentionBackward args;
  Array sequence_of;    // (T) int32; this and what follows for a GPU
  Array probabilities;  // (H, T, longest) fp32
  Array d_scores;       // (H, T, longest) fp32
  Array row_sums;       // (H, T) fp32: of d_out ∘ out

  [[gnu::weak]] static Call on_gpu(const AttentionBackwardSteps& steps, Stream& stream);
  DType type() const { return args.out.dtype(); }

  template <typename T>
  void run(const Cpu& on) const;  // attention_benchmark.cpp
};

}  // namespace dino::bench::textbook
