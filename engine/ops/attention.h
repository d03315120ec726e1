#pragma once

#include "engine/ops/sequences.h"
#include "engine/tape.h"

namespace dino {

/// Multi-head self-attention within each sequence: softmax(q kᵀ / √D) v. `qkv` is (T, 3C), columns q, k, v, each H
/// heads of D = C / H; the result is (T, C). No N×N matrix is kept for backward.
Tensor attention(Tape& tape, const Tensor& qkv, const Sequences& sequences, int heads);

/// The same for one query per sequence: q (S, C) against keys and values kv (T, 2C), columns k, v. The result is (S,
/// C). What the last block of a ViT needs when only CLS rows are used.
struct ClsAttention {
  Tensor output;         // (S, C)
  Tensor probabilities;  // (H, T) fp32: attention of each sequence's query to the sequence's rows; no variable
};
ClsAttention cls_attention(Tape& tape, const Tensor& q, const Tensor& kv, const Sequences& sequences, int heads);

}  // namespace dino
