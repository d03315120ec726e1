#include "kernels/attention/attention.h"
#include "kernels/attention/cls_attention.h"
#include "selftest/kernels/kernel_check.h"

namespace dino {
namespace {

/// Sequences of a token matrix, as attention has them.
struct Sequences {
  std::vector<std::int32_t> offsets;
  int longest, heads;
  std::int64_t width;
  std::int64_t rows() const { return offsets.back(); }
  Shape offsets_shape() const { return {static_cast<std::int64_t>(offsets.size())}; }
};
const Sequences kOddSequences{{0, 5, 14}, 9, 3, 15};
const Sequences kDinoSequences{{0, 65, 102}, 65, 2, 128};

struct AttentionInputs {
  AttentionInputs(KernelBench& b, const Sequences& s)
      : qkv(b.normal({s.rows(), 3 * s.width})),
        offsets(b.integers(s.offsets_shape(), s.offsets)),
        out(b.result({s.rows(), s.width})),
        logsumexp(b.result(kFloat, {s.heads, s.rows()})) {}
  AttentionForward arguments(At at, const Sequences& s) const {
    return {.qkv = at(qkv),
            .offsets = at(offsets),
            .max_length = s.longest,
            .heads = s.heads,
            .out = at(out),
            .logsumexp = at(logsumexp)};
  }
  Value qkv, offsets, out, logsumexp;
};

void attention_forward_check(KernelBench& b) {
  for (const Sequences& s : {kOddSequences, kDinoSequences}) {
    const AttentionInputs in(b, s);
    b.run([&](At at) { return in.arguments(at, s); }, attention_forward, reference::attention_forward,
          {{"out", in.out, b.bound(3e-6, 2 * kBf16)}, {"logsumexp", in.logsumexp, 3e-6}});
  }
}

void attention_backward_check(KernelBench& b) {
  for (const Sequences& s : {kOddSequences, kDinoSequences}) {
    const AttentionInputs in(b, s);
    b.prepare([&](At at) { return in.arguments(at, s); }, reference::attention_forward);
    const Value out = b.input_of(b.dtype(), in.out), logsumexp = b.input_of(kFloat, in.logsumexp);
    const Value d_out = b.normal({s.rows(), s.width}), d_qkv = b.result({s.rows(), 3 * s.width});
    b.run(
        [&](At at) {
          return AttentionBackward{.qkv = at(in.qkv),
                                   .offsets = at(in.offsets),
                                   .max_length = s.longest,
                                   .heads = s.heads,
                                   .out = at(out),
                                   .logsumexp = at(logsumexp),
                                   .d_out = at(d_out),
                                   .d_qkv = at(d_qkv),
                                   .mode = kOverwrite};
        },
        attention_backward, reference::attention_backward, {{"d_qkv", d_qkv, b.bound(3e-6, 3 * kBf16)}});
  }
}

struct ClsAttentionInputs {
  ClsAttentionInputs(KernelBench& b, const Sequences& s)
      : q(b.normal({s.offsets_shape()[0] - 1, s.width})),
        kv(b.normal({s.rows(), 2 * s.width})),
        offsets(b.integers(s.offsets_shape(), s.offsets)),
        out(b.result(q.device.shape())),
        probabilities(b.result(kFloat, {s.heads, s.rows()})) {}
  ClsAttentionForward arguments(At at, const Sequences& s) const {
    return {.q = at(q),
            .kv = at(kv),
            .offsets = at(offsets),
            .max_length = s.longest,
            .heads = s.heads,
            .out = at(out),
            .probabilities = at(probabilities)};
  }
  Value q, kv, offsets, out, probabilities;
};

void cls_attention_forward_check(KernelBench& b) {
  for (const Sequences& s : {kOddSequences, kDinoSequences}) {
    const ClsAttentionInputs in(b, s);
    b.run([&](At at) { return in.arguments(at, s); }, cls_attention_forward, reference::cls_attention_forward,
          {{"out", in.out, b.bound(3e-6, kBf16)}, {"probabilities", in.probabilities, 2e-6}});
  }
}

void cls_attention_backward_check(KernelBench& b) {
  for (const Sequences& s : {kOddSequences, kDinoSequences}) {
    const ClsAttentionInputs in(b, s);
    b.prepare([&](At at) { return in.arguments(at, s); }, reference::cls_attention_forward);
    const Value probabilities = b.input_of(kFloat, in.probabilities), d_out = b.normal(in.q.device.shape());
    const Value dq = b.result(in.q.device.shape()), d_kv = b.result(in.kv.device.shape());
    b.run(
        [&](At at) {
          return ClsAttentionBackward{.q = at(in.q),
                                      .kv = at(in.kv),
                                      .offsets = at(in.offsets),
                                      .max_length = s.longest,
                                      .heads = s.heads,
                                      .probabilities = at(probabilities),
                                      .d_out = at(d_out),
                                      .dq = at(dq),
                                      .dq_mode = kOverwrite,
                                      .d_kv = at(d_kv),
                                      .d_kv_mode = kOverwrite};
        },
        cls_attention_backward, reference::cls_attention_backward,
        {{"dq", dq, b.bound(3e-6, kBf16)}, {"d_kv", d_kv, b.bound(3e-6, kBf16)}});
  }
}

}  // namespace

KernelChecks attention_checks() {
  static constexpr KernelCheck kChecks[] = {
      {"attention_backward", true, attention_backward_check},
      {"attention_forward", true, attention_forward_check},
      {"cls_attention_backward", true, cls_attention_backward_check},
      {"cls_attention_forward", true, cls_attention_forward_check},
  };
  return kChecks;
}

}  // namespace dino
