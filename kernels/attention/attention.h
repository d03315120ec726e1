#pragma once

#include "kernels/common/array.h"
#include "kernels/common/gradient_mode.h"
#include "kernels/common/operation.h"

namespace dino {

/// Multi-head self-attention within each sequence s, rows [offsets[s], offsets[s + 1]) of the token matrix (Vaswani et
/// al., arXiv 1706.03762). For head h with queries q, keys k and values v, each (N, D):
///   out = softmax(q kᵀ / √D) v,   logsumexp = log Σ_j exp(q k_jᵀ / √D) for each query
/// A row of qkv holds q, k and v, each H heads of D = C / H numbers. Element type float32 or bfloat16; products,
/// softmax and sums are fp32, except that probabilities (and ds, below) may be rounded to bfloat16 for their products.
/// No (N, N) matrix reaches main memory. On CUDA, bfloat16 heads of 32 or 64 numbers at multiples of 16 bytes are fast;
/// others may have at most 317. Work: 4 T N D H flops. Results do not depend on the number of threads.
struct AttentionForward {
  ConstArray qkv;      // (T, 3C)
  ConstArray offsets;  // (S + 1) int32, not decreasing, from 0 to T
  int max_length = 0;  // of a sequence, at least
  int heads = 1;
  Array out;        // (T, C)
  Array logsumexp;  // (H, T) fp32, or empty
};
DINO_OPERATION(attention_forward, AttentionForward)

/// Gradient of AttentionForward. The probabilities p are computed again from qkv and logsumexp (Dao et al., arXiv
/// 2205.14135):
///   dv = pᵀ d_out,   ds = p ∘ (d_out vᵀ − rowsum(d_out ∘ out)) / √D,   dq = ds k,   dk = dsᵀ q
/// Work: 10 T N D H flops. Results do not depend on the number of threads.
struct AttentionBackward {
  ConstArray qkv;      // (T, 3C)
  ConstArray offsets;  // (S + 1) int32
  int max_length = 0;
  int heads = 1;
  ConstArray out;        // (T, C), of the forward pass
  ConstArray logsumexp;  // (H, T) fp32, of the forward pass
  ConstArray d_out;      // (T, C)
  Array d_qkv;           // (T, 3C)
  GradientMode mode = GradientMode::ignore;
};
DINO_OPERATION(attention_backward, AttentionBackward)

/// Throw Error unless types and shapes are as declared above.
void check_attention(const AttentionForward& args);
void check_attention(const AttentionBackward& args);

}  // namespace dino
