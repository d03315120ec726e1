#include "engine/ops/attention.h"

#include "kernels/attention/attention.h"
#include "kernels/attention/cls_attention.h"
#include "tests/support/catch.h"
#include "tests/support/host_array.h"

using namespace dino;
using namespace dino::test;

TEST_CASE("attention on a tape has the oracle's value and gradient") {
  const auto context = make_cpu_context();
  Tape tape(*context);
  const Sequences sequences = make_sequences(*context, {5, 1, 12});
  const HostArray qkv_host = random_normal(DType::float32, {18, 72}, 1);
  const HostArray d_out_host = random_normal(DType::float32, {18, 24}, 2);
  const Tensor qkv = tape.variable(context->from_host(qkv_host));
  const Tensor out = attention(tape, qkv, sequences, 3);
  tape.backward(out, context->from_host(d_out_host));

  HostArray expected(DType::float64, {18, 24});
  HostArray d_expected(DType::float64, {18, 72});
  const ConstArray offsets = sequences.offsets.array();
  reference::attention_forward(
      {.qkv = qkv_host, .offsets = offsets, .max_length = 12, .heads = 3, .out = expected, .logsumexp = {}});
  reference::attention_backward({.qkv = qkv_host,
                                 .offsets = offsets,
                                 .max_length = 12,
                                 .heads = 3,
                                 .out = {},
                                 .logsumexp = {},
                                 .d_out = d_out_host,
                                 .d_qkv = d_expected,
                                 .mode = GradientMode::overwrite});
  check_close(out.array(), expected, 2e-6, "out");
  check_close(tape.gradient(qkv).array(), d_expected, 3e-6, "d_qkv");
}

TEST_CASE("cls_attention on a tape has the oracle's value and gradients") {
  const auto context = make_cpu_context();
  Tape tape(*context);
  const Sequences sequences = make_sequences(*context, {5, 12});
  const HostArray q_host = random_normal(DType::float32, {2, 24}, 1);
  const HostArray kv_host = random_normal(DType::float32, {17, 48}, 2);
  const HostArray d_out_host = random_normal(DType::float32, {2, 24}, 3);
  const Tensor q = tape.variable(context->from_host(q_host));
  const Tensor kv = tape.variable(context->from_host(kv_host));
  const ClsAttention result = cls_attention(tape, q, kv, sequences, 3);
  tape.backward(result.output, context->from_host(d_out_host));

  HostArray expected(DType::float64, {2, 24});
  HostArray probabilities(DType::float64, {3, 17});
  HostArray dq(DType::float64, {2, 24});
  HostArray d_kv(DType::float64, {17, 48});
  const ConstArray offsets = sequences.offsets.array();
  constexpr auto kOverwrite = GradientMode::overwrite;
  reference::cls_attention_forward({.q = q_host,
                                    .kv = kv_host,
                                    .offsets = offsets,
                                    .max_length = 12,
                                    .heads = 3,
                                    .out = expected,
                                    .probabilities = probabilities});
  reference::cls_attention_backward({.q = q_host,
                                     .kv = kv_host,
                                     .offsets = offsets,
                                     .max_length = 12,
                                     .heads = 3,
                                     .probabilities = probabilities,
                                     .d_out = d_out_host,
                                     .dq = dq,
                                     .dq_mode = kOverwrite,
                                     .d_kv = d_kv,
                                     .d_kv_mode = kOverwrite});
  check_close(result.output.array(), expected, 2e-6, "out");
  check_close(result.probabilities.array(), probabilities, 2e-6, "probabilities");
  check_close(tape.gradient(q).array(), dq, 3e-6, "dq");
  check_close(tape.gradient(kv).array(), d_kv, 3e-6, "d_kv");
}

TEST_CASE("attention refuses sequences of another number of rows") {
  const auto context = make_cpu_context();
  Tape tape(*context, Tape::Mode::inference);
  const Sequences sequences = make_sequences(*context, {5, 12});
  CHECK_THROWS_AS(attention(tape, context->empty({16, 12}, DType::float32), sequences, 1), Error);
}
