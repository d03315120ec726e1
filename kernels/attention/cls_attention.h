#pragma once

#include "kernels/common/array.h"
#include "kernels/common/gradient_mode.h"
#include "kernels/common/operation.h"

namespace dino {

/// Multi-head attention of one query per sequence to the rows of its sequence:
///   probabilities[h, t] = softmax over the rows t of sequence s of (q[s] · k[t] / √D),   out[s] = Σ_t probabilities[h,
///   t] v[t]
/// A row of kv holds k and v, each H heads of D = C / H numbers. Element type float32 or bfloat16; arithmetic is fp32.
/// Traffic: kv is read once; 4 T C flops, bound by memory. Results do not depend on the number of threads.
struct ClsAttentionForward {
  ConstArray q;        // (S, C)
  ConstArray kv;       // (T, 2C)
  ConstArray offsets;  // (S + 1) int32, increasing, from 0 to T
  int max_length = 0;  // of a sequence, at least
  int heads = 1;
  Array out;            // (S, C)
  Array probabilities;  // (H, T) fp32
};
DINO_OPERATION(cls_attention_forward, ClsAttentionForward)

/// Gradient of ClsAttentionForward, with p the probabilities, r = d_out[s] · v[t] and ds[t] = p[t] (r[t] − Σ p r) / √D:
///   dq[s] = Σ_t ds[t] k[t],   dk[t] = ds[t] q[s],   dv[t] = p[t] d_out[s]
/// Traffic: kv is read and d_kv written once.
struct ClsAttentionBackward {
  ConstArray q;        // (S, C)
  ConstArray kv;       // (T, 2C)
  ConstArray offsets;  // (S + 1) int32
  int max_length = 0;
  int heads = 1;
  ConstArray probabilities;  // (H, T) fp32, of the forward pass
  ConstArray d_out;          // (S, C)
  Array dq;                  // (S, C)
  GradientMode dq_mode = GradientMode::ignore;
  Array d_kv;  // (T, 2C)
  GradientMode d_kv_mode = GradientMode::ignore;
};
DINO_OPERATION(cls_attention_backward, ClsAttentionBackward)

/// Throw Error unless types and shapes are as declared above.
void check_attention(const ClsAttentionForward& args);
void check_attention(const ClsAttentionBackward& args);

}  // namespace dino
