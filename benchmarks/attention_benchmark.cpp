// Self-attention of all sequences, and attention of the CLS tokens alone as the last block has it.
#include "kernels/attention/attention.h"
#include "kernels/attention/cls_attention.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/cudnn_reference.h"
#include "benchmarks/textbook/attention.h"
#include "benchmarks/textbook/cls_attention.h"
#include "benchmarks/textbook/textbook.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace dino::bench {
namespace textbook {

template <typename T>
void AttentionForwardSteps::run(const Cpu& on) const {
  const std::int64_t width = args.out.extent(1), d = width / args.heads, tokens = args.out.extent(0);
  const T* qkv = args.qkv.as<T>();
  T* out = args.out.as<T>();
  float* logsumexp = args.logsumexp.as<float>();
  const auto* offsets = args.offsets.as<std::int32_t>();
  const float scale = 1 / std::sqrt(static_cast<float>(d));
  on.for_rows((args.offsets.size() - 1) * args.heads, 0, [=, heads = args.heads](const Cpu::Row&, std::int64_t item) {
    const std::int64_t first = offsets[item / heads], n = offsets[item / heads + 1] - first, head = item % heads;
    std::vector<float> scores(static_cast<std::size_t>(n * n)), sums(static_cast<std::size_t>(d));
    const auto at = [=](std::int64_t token, std::int64_t part) {
      return qkv + (first + token) * 3 * width + part * width + head * d;
    };
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        float sum = 0;
        for (std::int64_t c = 0; c < d; ++c) sum += get(at(i, 0)[c]) * get(at(j, 1)[c]);
        scores[static_cast<std::size_t>(i * n + j)] = sum * scale;
      }
    }
    for (std::int64_t i = 0; i < n; ++i) {
      float* row = scores.data() + i * n;
      const float largest = *std::max_element(row, row + n);
      float total = 0;
      for (std::int64_t j = 0; j < n; ++j) total += row[j] = std::exp(row[j] - largest);
      for (std::int64_t j = 0; j < n; ++j) row[j] /= total;
      logsumexp[head * tokens + first + i] = largest + std::log(total);
    }
    for (std::int64_t i = 0; i < n; ++i) {
      std::fill(sums.begin(), sums.end(), 0.0F);
      for (std::int64_t j = 0; j < n; ++j) {
        for (std::int64_t c = 0; c < d; ++c)
          sums[static_cast<std::size_t>(c)] += scores[static_cast<std::size_t>(i * n + j)] * get(at(j, 2)[c]);
      }
      for (std::int64_t c = 0; c < d; ++c)
        out[(first + i) * width + head * d + c] = put<T>(sums[static_cast<std::size_t>(c)]);
    }
  });
}

template <typename T>
void AttentionBackwardSteps::run(const Cpu& on) const {
  const std::int64_t width = args.out.extent(1), d = width / args.heads, tokens = args.out.extent(0);
  const T *qkv = args.qkv.as<T>(), *out = args.out.as<T>(), *d_out = args.d_out.as<T>();
  T* d_qkv = args.d_qkv.as<T>();
  const float* logsumexp = args.logsumexp.as<float>();
  const auto* offsets = args.offsets.as<std::int32_t>();
  const float scale = 1 / std::sqrt(static_cast<float>(d));
  on.for_rows((args.offsets.size() - 1) * args.heads, 0, [=, heads = args.heads](const Cpu::Row&, std::int64_t item) {
    const std::int64_t first = offsets[item / heads], n = offsets[item / heads + 1] - first, head = item % heads;
    const auto size = static_cast<std::size_t>(n * n);
    std::vector<float> p(size), ds(size), sums(static_cast<std::size_t>(3 * n * d), 0.0F);
    const auto at = [=](std::int64_t token, std::int64_t part, std::int64_t c) {
      return get(qkv[(first + token) * 3 * width + part * width + head * d + c]);
    };
    const auto out_at = [=](const T* array, std::int64_t token, std::int64_t c) {
      return get(array[(first + token) * width + head * d + c]);
    };
    const auto sum_of = [&](std::int64_t token, std::int64_t part) { return sums.data() + (part * n + token) * d; };
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        float sum = 0;
        for (std::int64_t c = 0; c < d; ++c) sum += at(i, 0, c) * at(j, 1, c);
        p[static_cast<std::size_t>(i * n + j)] = std::exp(sum * scale - logsumexp[head * tokens + first + i]);
      }
    }
    for (std::int64_t i = 0; i < n; ++i) {
      float row = 0;
      for (std::int64_t c = 0; c < d; ++c) row += out_at(out, i, c) * out_at(d_out, i, c);
      for (std::int64_t j = 0; j < n; ++j) {
        float sum = 0;
        for (std::int64_t c = 0; c < d; ++c) sum += out_at(d_out, i, c) * at(j, 2, c);
        ds[static_cast<std::size_t>(i * n + j)] = p[static_cast<std::size_t>(i * n + j)] * (sum - row) * scale;
      }
    }
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        const float probability = p[static_cast<std::size_t>(i * n + j)],
                    slope = ds[static_cast<std::size_t>(i * n + j)];
        for (std::int64_t c = 0; c < d; ++c) {
          sum_of(i, 0)[c] += slope * at(j, 1, c);
          sum_of(j, 1)[c] += slope * at(i, 0, c);
          sum_of(j, 2)[c] += probability * out_at(d_out, i, c);
        }
      }
    }
    for (std::int64_t part = 0; part < 3; ++part) {
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t c = 0; c < d; ++c)
          d_qkv[(first + i) * 3 * width + part * width + head * d + c] = put<T>(sum_of(i, part)[c]);
      }
    }
  });
}

}  // namespace textbook

namespace {

struct Sequences {
  explicit Sequences(Bench& bench) {
    const std::vector<std::int32_t> host = bench.sequence_offsets();
    count = static_cast<std::int64_t>(host.size()) - 1;
    for (std::size_t s = 0; s + 1 < host.size(); ++s) longest = std::max<std::int64_t>(longest, host[s + 1] - host[s]);
    offsets = bench.indices(host);
  }
  Array offsets;
  std::int64_t count = 0, longest = 0;
};

/// cuDNN has no attention in fp32.
bool has_cudnn(const Bench& bench) { return bench.dtype() == DType::bfloat16; }

AttentionForward forward_args(Bench& bench, const Sequences& s) {
  const Workload& w = bench.workload();
  return {.qkv = bench.values({w.tokens(), 3 * w.width}),
          .offsets = s.offsets,
          .max_length = static_cast<int>(s.longest),
          .heads = static_cast<int>(w.heads),
          .out = bench.zeros(bench.dtype(), {w.tokens(), w.width}),
          .logsumexp = bench.zeros(DType::float32, {w.heads, w.tokens()})};
}

Prepared prepare_forward(Bench& bench) {
  const Sequences s(bench);
  const AttentionForward args = forward_args(bench, s);
  const Workload& w = bench.workload();
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} seq. <= {}, {} heads", s.count, s.longest, args.heads),
                    .run = [=, &stream] { attention_forward(args, stream); },
                    .outputs = {args.out, args.logsumexp}};
  textbook::AttentionForwardSteps steps{args, {}, {}};
  if (!bench.on_cpu()) {
    steps.sequence_of = bench.indices(bench.sequence_of_tokens());
    steps.scores = bench.zeros(DType::float32, {w.heads, w.tokens(), s.longest});
  }
  textbook::add(bench, prepared, steps);
  if (has_cudnn(bench)) cudnn::add(bench, prepared, "cuDNN", &cudnn::attention_forward, args, {args.out});
  return prepared;
}

Prepared prepare_backward(Bench& bench) {
  const Sequences s(bench);
  const AttentionForward forward = forward_args(bench, s);
  Stream& stream = bench.stream();
  attention_forward(forward, stream);
  const Workload& w = bench.workload();
  const AttentionBackward args{.qkv = forward.qkv,
                               .offsets = s.offsets,
                               .max_length = forward.max_length,
                               .heads = forward.heads,
                               .out = forward.out,
                               .logsumexp = forward.logsumexp,
                               .d_out = bench.values({w.tokens(), w.width}),
                               .d_qkv = bench.zeros(bench.dtype(), {w.tokens(), 3 * w.width}),
                               .mode = GradientMode::overwrite};
  Prepared prepared{.size = fmt::format("{} seq. <= {}, {} heads", s.count, s.longest, args.heads),
                    .run = [=, &stream] { attention_backward(args, stream); },
                    .outputs = {args.d_qkv}};
  textbook::AttentionBackwardSteps steps{args, {}, {}, {}, {}};
  if (!bench.on_cpu()) {
    steps.sequence_of = bench.indices(bench.sequence_of_tokens());
    steps.probabilities = bench.zeros(DType::float32, {w.heads, w.tokens(), s.longest});
    steps.d_scores = bench.zeros(DType::float32, {w.heads, w.tokens(), s.longest});
    steps.row_sums = bench.zeros(DType::float32, {w.heads, w.tokens()});
  }
  textbook::add(bench, prepared, steps);
  if (has_cudnn(bench)) cudnn::add(bench, prepared, "cuDNN", &cudnn::attention_backward, args, {args.d_qkv});
  return prepared;
}

ClsAttentionForward cls_args(Bench& bench, const Sequences& s) {
  const Workload& w = bench.workload();
  return {.q = bench.values({s.count, w.width}),
          .kv = bench.values({w.tokens(), 2 * w.width}),
          .offsets = s.offsets,
          .max_length = static_cast<int>(s.longest),
          .heads = static_cast<int>(w.heads),
          .out = bench.zeros(bench.dtype(), {s.count, w.width}),
          .probabilities = bench.zeros(DType::float32, {w.heads, w.tokens()})};
}

Prepared prepare_cls_forward(Bench& bench) {
  const Sequences s(bench);
  const ClsAttentionForward args = cls_args(bench, s);
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} seq. <= {}, {} heads", s.count, s.longest, args.heads),
                    .run = [=, &stream] { cls_attention_forward(args, stream); },
                    .outputs = {args.out, args.probabilities}};
  textbook::add(bench, prepared, textbook::ClsAttentionForwardSteps{args});
  if (has_cudnn(bench)) cudnn::add(bench, prepared, "cuDNN", &cudnn::cls_attention_forward, args, {args.out});
  return prepared;
}

Prepared prepare_cls_backward(Bench& bench) {
  const Sequences s(bench);
  const ClsAttentionForward forward = cls_args(bench, s);
  Stream& stream = bench.stream();
  cls_attention_forward(forward, stream);
  const Workload& w = bench.workload();
  const ClsAttentionBackward args{.q = forward.q,
                                  .kv = forward.kv,
                                  .offsets = s.offsets,
                                  .max_length = forward.max_length,
                                  .heads = forward.heads,
                                  .probabilities = forward.probabilities,
                                  .d_out = bench.values({s.count, w.width}),
                                  .dq = bench.zeros(bench.dtype(), {s.count, w.width}),
                                  .dq_mode = GradientMode::overwrite,
                                  .d_kv = bench.zeros(bench.dtype(), {w.tokens(), 2 * w.width}),
                                  .d_kv_mode = GradientMode::overwrite};
  Prepared prepared{.size = fmt::format("{} seq. <= {}, {} heads", s.count, s.longest, args.heads),
                    .run = [=, &stream] { cls_attention_backward(args, stream); },
                    .outputs = {args.dq, args.d_kv}};
  textbook::add(bench, prepared,
                textbook::ClsAttentionBackwardSteps{args, bench.zeros(DType::float32, {w.heads, w.tokens()})});
  if (has_cudnn(bench))
    cudnn::add(bench, prepared, "cuDNN", &cudnn::cls_attention_backward, args, {args.dq, args.d_kv});
  return prepared;
}

const Registered kForward{{.operation = "attention", .pass = "forward", .prepare = prepare_forward}};
const Registered kBackward{{.operation = "attention", .pass = "backward", .prepare = prepare_backward}};
const Registered kClsForward{{.operation = "attention", .pass = "CLS forward", .prepare = prepare_cls_forward}};
const Registered kClsBackward{{.operation = "attention", .pass = "CLS backward", .prepare = prepare_cls_backward}};

}  // namespace
}  // namespace dino::bench
