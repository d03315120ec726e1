#include "engine/ops/attention.h"

#include "kernels/attention/attention.h"
#include "kernels/attention/cls_attention.h"

namespace dino {
namespace {

void require_rows(const Tensor& x, const Sequences& sequences, const char* where) {
  require(x.shape().rank() == 2 && x.extent(0) == sequences.rows(), where,
          "the sequences have {} rows, the input is {}", sequences.rows(), x.shape().to_string());
}

}  // namespace

Tensor attention(Tape& tape, const Tensor& qkv, const Sequences& sequences, int heads) {
  require_rows(qkv, sequences, "attention");
  const std::int64_t rows = qkv.extent(0);
  Tensor out = tape.output({rows, qkv.extent(1) / 3}, qkv.dtype(), {&qkv});
  Tensor logsumexp;
  if (out.requires_gradient()) logsumexp = tape.context().empty({heads, rows}, DType::float32);
  const Tensor offsets = sequences.offsets;
  const int max_length = sequences.max_length;
  attention_forward({.qkv = qkv.array(),
                     .offsets = offsets.array(),
                     .max_length = max_length,
                     .heads = heads,
                     .out = out.array(),
                     .logsumexp = logsumexp.array()},
                    tape.stream());
  tape.record("attention", out,
              [qkv, offsets, max_length, heads, out = out.detach(), logsumexp](Tape& tape, const Tensor& d_out) {
                const GradientTarget d_qkv = tape.gradient_target(qkv);
                attention_backward({.qkv = qkv.array(),
                                    .offsets = offsets.array(),
                                    .max_length = max_length,
                                    .heads = heads,
                                    .out = out.array(),
                                    .logsumexp = logsumexp.array(),
                                    .d_out = d_out.array(),
                                    .d_qkv = d_qkv.tensor.array(),
                                    .mode = d_qkv.mode},
                                   tape.stream());
              });
  return out;
}

ClsAttention cls_attention(Tape& tape, const Tensor& q, const Tensor& kv, const Sequences& sequences, int heads) {
  require_rows(kv, sequences, "cls_attention");
  Tensor out = tape.output(q.shape(), q.dtype(), {&q, &kv});
  const Tensor probabilities = tape.context().empty({heads, kv.extent(0)}, DType::float32);
  const Tensor offsets = sequences.offsets;
  const int max_length = sequences.max_length;
  cls_attention_forward({.q = q.array(),
                         .kv = kv.array(),
                         .offsets = offsets.array(),
                         .max_length = max_length,
                         .heads = heads,
                         .out = out.array(),
                         .probabilities = probabilities.array()},
                        tape.stream());
  tape.record("cls_attention", out,
              [q, kv, offsets, max_length, heads, probabilities](Tape& tape, const Tensor& d_out) {
                const GradientTarget dq = tape.gradient_target(q);
                const GradientTarget d_kv = tape.gradient_target(kv);
                cls_attention_backward({.q = q.array(),
                                        .kv = kv.array(),
                                        .offsets = offsets.array(),
                                        .max_length = max_length,
                                        .heads = heads,
                                        .probabilities = probabilities.array(),
                                        .d_out = d_out.array(),
                                        .dq = dq.tensor.array(),
                                        .dq_mode = dq.mode,
                                        .d_kv = d_kv.tensor.array(),
                                        .d_kv_mode = d_kv.mode},
                                       tape.stream());
              });
  return {out, probabilities};
}

}  // namespace dino
