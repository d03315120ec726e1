#pragma once

#include "benchmarks/cudnn_graph.h"
#include "kernels/common/array.h"

/// The graphs that the kernels are compared with, written as cuDNN recognises them: it runs a graph as one kernel only
/// when its operations come in a pattern that one of its engines knows.
namespace dino::bench::cudnn {

/// A tensor (S, H, N, D) within a matrix of tokens: S sequences of N tokens, H heads of D neighbouring numbers. Strides
/// in elements.
struct Heads {
  const void* data = nullptr;
  std::int64_t tokens = 0;  // N
  std::int64_t sequence_stride = 0, token_stride = 0;
};

/// softmax(q kᵀ / √D) v of S sequences of one length; a tensor of theirs is bfloat16.
struct Attention {
  std::int64_t sequences = 0, heads = 0, head_width = 0;
  Heads q, k, v, out;               // k and v of one length
  const void* logsumexp = nullptr;  // (S, H, N of q) fp32
};
struct AttentionGradients {
  Heads d_out, dq, dk, dv;
  const void* row_sums = nullptr;  // (S, H, N of q) fp32, to work in
  const void* dq_sums = nullptr;   // (S, H, N of q, D) fp32, to work in
};
Graph attention_forward_graph(const Api& api, const Attention& a);
/// Needs `out` and `logsumexp` of the forward pass. `dq_sums` must be zero when it runs.
Graph attention_backward_graph(const Api& api, const Attention& a, const AttentionGradients& d);

/// y = LayerNorm of the rows of x, (T, C); statistics and parameters are fp32.
Graph layer_norm_graph(const Api& api, const ConstArray& x, const ConstArray& gamma, const ConstArray& beta, double eps,
                       const Array& y, const Array& mean, const Array& rstd);
Graph layer_norm_backward_graph(const Api& api, const ConstArray& x, const ConstArray& dy, const ConstArray& gamma,
                                const ConstArray& mean, const ConstArray& rstd, const Array& dx, const Array& dgamma,
                                const Array& dbeta);
/// y = a + b of one shape and type.
Graph sum_graph(const Api& api, const ConstArray& a, const ConstArray& b, const Array& y);
/// y = factor · (x − row), x and y (R, C), row (C); without `row`, factor · x. y is fp32.
Graph scaled_rows_graph(const Api& api, const ConstArray& x, const ConstArray& row, float factor, const Array& y);
/// y = factor · Σ_i (a − b_i), all (R, C), for one b or two; where a and y have a multiple of b's rows, b is repeated.
Graph differences_graph(const Api& api, const ConstArray& a, const std::vector<ConstArray>& b, float factor,
                        const Array& y);

}  // namespace dino::bench::cudnn
