#include "selftest/kernel_checks.h"

#include "kernels/attention/attention.h"
#include "kernels/attention/cls_attention.h"
#include "kernels/augment/augment.h"
#include "kernels/batch_norm/batch_norm.h"
#include "kernels/cast/cast.h"
#include "kernels/column_sum/column_sum.h"
#include "kernels/dino_loss/dino_loss.h"
#include "kernels/gather_rows/gather_rows.h"
#include "kernels/gelu/gelu.h"
#include "kernels/knn/knn.h"
#include "kernels/l2_normalize/l2_normalize.h"
#include "kernels/layer_norm/layer_norm.h"
#include "kernels/matmul/matmul.h"
#include "kernels/optimizer_step/optimizer_step.h"
#include "kernels/patch_embed/patch_embed.h"
#include "kernels/pos_embed/pos_embed.h"
#include "kernels/weight_norm/weight_norm.h"
#include "selftest/kernel_bench.h"

#include <fmt/format.h>
#include <hwy/targets.h>

#include <iterator>
#include <optional>

namespace dino {
namespace {

using Value = KernelBench::Value;
using At = KernelBench::At;

constexpr DType kFloat = DType::float32;
constexpr auto kOverwrite = GradientMode::overwrite;
constexpr auto kAccumulate = GradientMode::accumulate;

// Rounding to bf16 is off by 2^-9 of the value at most; bounds allow for twice that, and once more for each result
// that is rounded on the way.
constexpr double kBf16 = 0x1p-8;

// Each function checks one operation at the sizes that its loop names: an odd one, and one of DINO's.

void layer_norm_forward_check(KernelBench& b) {
  for (const Shape& matrix : {Shape{5, 33}, Shape{37, 384}}) {
    const Shape rows{matrix[0]}, columns{matrix[1]};
    std::vector<std::int32_t> sequences;
    for (int t = 0; t < matrix[0]; ++t) sequences.push_back(t % 2);
    const Value x = b.normal(matrix), branch = b.normal(matrix), scale = b.normal(kFloat, {2}, 0.1, 1),
                sequence = b.integers(rows, sequences);
    const Value gamma = b.normal(kFloat, columns, 0.2, 1), beta = b.normal(kFloat, columns);
    const Value sum = b.result(matrix), normalized = b.result(matrix), mean = b.result(kFloat, rows),
                rstd = b.result(kFloat, rows);
    b.run(
        [&](At at) {
          return LayerNormForward{.x = at(x),
                                  .branch = at(branch),
                                  .branch_scale = at(scale),
                                  .row_sequence = at(sequence),
                                  .gamma = at(gamma),
                                  .beta = at(beta),
                                  .sum = at(sum),
                                  .normalized = at(normalized),
                                  .mean = at(mean),
                                  .rstd = at(rstd)};
        },
        layer_norm_forward, reference::layer_norm_forward,
        {{"sum", sum, b.bound(2e-6, kBf16)},
         {"normalized", normalized, b.bound(2e-6, 2 * kBf16)},
         {"rstd", rstd, b.bound(2e-6, kBf16)}});
  }
}

void layer_norm_backward_check(KernelBench& b) {
  for (const Shape& matrix : {Shape{5, 33}, Shape{37, 384}}) {
    const Shape rows{matrix[0]}, columns{matrix[1]};
    const Value sum = b.normal(matrix), mean = b.normal(kFloat, rows, 0.1), rstd = b.normal(kFloat, rows, 0.1, 1),
                gamma = b.normal(kFloat, columns, 0.2, 1), dy = b.normal(matrix), d_sum = b.normal(matrix);
    const Value dx = b.result(matrix), d_branch = b.result(matrix), dgamma = b.updated(kFloat, columns),
                dbeta = b.updated(kFloat, columns);
    b.run(
        [&](At at) {
          return LayerNormBackward{.sum = at(sum),
                                   .mean = at(mean),
                                   .rstd = at(rstd),
                                   .gamma = at(gamma),
                                   .d_normalized = at(dy),
                                   .d_sum = at(d_sum),
                                   .branch_scale = {},
                                   .row_sequence = {},
                                   .dx = at(dx),
                                   .dx_mode = kOverwrite,
                                   .d_branch = at(d_branch),
                                   .d_branch_mode = kOverwrite,
                                   .dgamma = at(dgamma),
                                   .dgamma_mode = kAccumulate,
                                   .dbeta = at(dbeta),
                                   .dbeta_mode = kAccumulate};
        },
        layer_norm_backward, reference::layer_norm_backward,
        {{"dx", dx, b.bound(2e-6, kBf16)},
         {"d_branch", d_branch, b.bound(2e-6, kBf16)},
         {"dgamma", dgamma, 2e-6},
         {"dbeta", dbeta, 2e-6}});
  }
}

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

void gelu_forward_check(KernelBench& b) {
  for (const Shape& shape : {Shape{7, 9}, Shape{37, 1536}}) {
    const Value x = b.normal(shape, 2), y = b.result(shape);
    b.run([&](At at) { return GeluForward{.x = at(x), .y = at(y)}; }, gelu_forward, reference::gelu_forward,
          {{"y", y, b.bound(1e-6, kBf16)}});
  }
}

void gelu_backward_check(KernelBench& b) {
  for (const Shape& shape : {Shape{7, 9}, Shape{37, 1536}}) {
    const Value x = b.normal(shape, 1.5), dy = b.normal(shape), dx = b.result(shape),
                dbias = b.result(kFloat, {shape[1]});
    b.run(
        [&](At at) {
          return GeluBackward{
              .x = at(x), .dy = at(dy), .dx = at(dx), .mode = kOverwrite, .dbias = at(dbias), .dbias_mode = kOverwrite};
        },
        gelu_backward, reference::gelu_backward, {{"dx", dx, b.bound(1e-6, kBf16)}, {"dbias", dbias, 2e-6}});
  }
}

void matmul_check(KernelBench& b) {
  struct Case {
    std::int64_t m, n, k;
    bool transpose_a, transpose_b, gelu, accumulate;
  };
  // A layer with bias and GELU, its weight gradient, the gradient of its input; and an odd size.
  for (const Case& c : {Case{37, 384, 96, false, true, true, false}, Case{96, 64, 74, true, false, false, true},
                        Case{64, 96, 384, false, false, false, false}, Case{5, 7, 3, false, false, false, false}}) {
    const Value a = b.normal(c.transpose_a ? Shape{c.k, c.m} : Shape{c.m, c.k});
    const Value w = b.normal(c.transpose_b ? Shape{c.n, c.k} : Shape{c.k, c.n}, 0.1);
    const Value bias = b.normal(kFloat, {c.n});
    const DType type = c.accumulate ? kFloat : b.dtype();
    const Value y = c.accumulate ? b.updated(type, {c.m, c.n}) : b.result(type, {c.m, c.n});
    b.run(
        [&](At at) {
          return Matmul{.a = at(a),
                        .b = at(w),
                        .bias = c.gelu ? at(bias) : Array(),
                        .y = at(y),
                        .transpose_a = c.transpose_a,
                        .transpose_b = c.transpose_b,
                        .mode = c.accumulate ? kAccumulate : kOverwrite,
                        .gelu = c.gelu};
        },
        matmul, reference::matmul,
        // Where the bias or the product is rounded before the GELU: two roundings, of which a GELU makes 1.3 times as
        // much.
        {{"y", y, type == kFloat ? 2e-6 : (c.gelu ? 2.3 : 1) * kBf16}});
  }
}

void dino_loss_check(KernelBench& b) {
  for (const std::int64_t columns : {33, 1024}) {
    const int images = 2;
    const Shape students{4 * images, columns};
    // The oracle's gradient has its logits' type.
    const Value student = b.widened(b.normal(students, 0.3)), teacher = b.normal({2 * images, columns}, 0.3),
                center = b.normal(kFloat, {columns}, 0.1);
    const Value gradient = b.result(students), loss = b.result(kFloat, {1}), entropy = b.result(kFloat, {1}),
                kl = b.result(kFloat, {1}), sum = b.result(kFloat, {columns});
    b.run(
        [&](At at) {
          return DinoLossWithGradient{.student = at(student),
                                      .teacher = at(teacher),
                                      .center = at(center),
                                      .images = images,
                                      .student_gradient = at(gradient),
                                      .loss = at(loss),
                                      .teacher_entropy = at(entropy),
                                      .kl = at(kl),
                                      .teacher_sum = at(sum)};
        },
        dino_loss_with_gradient, reference::dino_loss_with_gradient,
        // The divergence is a difference, several times smaller than what it is one of.
        {{"loss", loss, 2e-6},
         {"teacher_entropy", entropy, 2e-5},
         {"kl", kl, 2e-5},
         {"teacher_sum", sum, 2e-6},
         {"student_gradient", gradient, b.bound(1e-5, kBf16)}});
  }
}

void center_update_check(KernelBench& b) {
  const Value sum = b.normal(kFloat, {1023}, 8), center = b.updated(kFloat, {1023});
  b.run([&](At at) { return CenterUpdate{.sum = at(sum), .rows = 8, .momentum = 0.9, .center = at(center)}; },
        center_update, reference::center_update, {{"center", center, 3e-7}});
}

void cast_check(KernelBench& b) {
  const Value x = b.normal(kFloat, {1003}), narrow = b.result(DType::bfloat16, {1003});
  b.run([&](At at) { return Cast{.x = at(x), .y = at(narrow)}; }, cast, reference::cast, {{"bf16", narrow, kBf16}});
  const Value y = b.normal(DType::bfloat16, {1003}), wide = b.result(kFloat, {1003});
  b.run([&](At at) { return Cast{.x = at(y), .y = at(wide)}; }, cast, reference::cast, {{"fp32", wide, 0}});
}

void column_sum_check(KernelBench& b) {
  for (const Shape& shape : {Shape{65, 33}, Shape{700, 384}}) {
    const Value x = b.normal(shape, 1, 0.5), y = b.updated(kFloat, {shape[1]});
    b.run([&](At at) { return ColumnSum{.x = at(x), .y = at(y), .mode = kAccumulate}; }, column_sum,
          reference::column_sum, {{"y", y, 2e-6}});
  }
}

const std::vector<std::int32_t> kChosenRows{17, 3, 0, 12};

void gather_rows_check(KernelBench& b) {
  for (const std::int64_t width : {7, 384}) {
    const Value x = b.normal({18, width}), rows = b.integers({4}, kChosenRows), y = b.result({4, width});
    b.run([&](At at) { return GatherRows{.x = at(x), .rows = at(rows), .y = at(y)}; }, gather_rows,
          reference::gather_rows, {{"y", y, 0}});
  }
}

void gather_rows_backward_check(KernelBench& b) {
  for (const std::int64_t width : {7, 384}) {
    const Value dy = b.normal({4, width}), rows = b.integers({4}, kChosenRows), dx = b.result({18, width});
    b.run([&](At at) { return GatherRowsBackward{.dy = at(dy), .rows = at(rows), .dx = at(dx), .mode = kOverwrite}; },
          gather_rows_backward, reference::gather_rows_backward, {{"dx", dx, 0}});
  }
}

void l2_normalize_check(KernelBench& b) {
  for (const Shape& shape : {Shape{3, 7}, Shape{64, 256}}) {
    const Value x = b.normal(shape, 0.3, 0.1), y = b.result(shape);
    b.run([&](At at) { return L2Normalize{.x = at(x), .y = at(y)}; }, l2_normalize, reference::l2_normalize,
          {{"y", y, b.bound(1e-6, kBf16)}});
  }
}

void l2_normalize_backward_check(KernelBench& b) {
  for (const Shape& shape : {Shape{3, 7}, Shape{64, 256}}) {
    const Value x = b.normal(shape, 0.3, 0.1), dy = b.normal(shape), dx = b.result(shape);
    b.run([&](At at) { return L2NormalizeBackward{.x = at(x), .dy = at(dy), .dx = at(dx), .mode = kOverwrite}; },
          l2_normalize_backward, reference::l2_normalize_backward, {{"dx", dx, b.bound(1e-6, kBf16)}});
  }
}

void weight_norm_check(KernelBench& b) {
  for (const Shape& shape : {Shape{3, 7}, Shape{131, 256}}) {
    const Value v = b.normal(kFloat, shape, 0.04), g = b.normal(kFloat, {shape[0], 1}, 0.2, 1), w = b.result(shape);
    b.run([&](At at) { return WeightNorm{.v = at(v), .g = at(g), .w = at(w)}; }, weight_norm, reference::weight_norm,
          {{"w", w, b.bound(1e-6, kBf16)}});
  }
}

void weight_norm_backward_check(KernelBench& b) {
  for (const Shape& shape : {Shape{3, 7}, Shape{131, 256}}) {
    const Value v = b.normal(kFloat, shape, 0.04), g = b.normal(kFloat, {shape[0], 1}, 0.2, 1), dw = b.normal(shape),
                dv = b.result(kFloat, shape), dg = b.result(kFloat, {shape[0], 1});
    b.run(
        [&](At at) {
          return WeightNormBackward{.v = at(v),
                                    .g = at(g),
                                    .dw = at(dw),
                                    .dv = at(dv),
                                    .dg = at(dg),
                                    .dv_mode = kOverwrite,
                                    .dg_mode = kOverwrite};
        },
        weight_norm_backward, reference::weight_norm_backward, {{"dv", dv, 2e-6}, {"dg", dg, 4e-6}});
  }
}

void batch_norm_check(KernelBench& b) {
  for (const Shape& shape : {Shape{5, 7}, Shape{40, 512}}) {
    const Shape columns{shape[1]}, more{shape[1] + 1}, two{2, shape[1]};
    const Value x = b.normal(shape, 2, 0.5), dy = b.normal(shape), gamma = b.normal(kFloat, columns, 0.2, 1),
                beta = b.normal(kFloat, columns, 0.2);
    const Value sums_out = b.result(kFloat, more);
    b.run([&](At at) { return BatchNormSums{.x = at(x), .sums = at(sums_out)}; }, batch_norm_sums,
          reference::batch_norm_sums, {{"sums", sums_out, 2e-6}});
    const Value sums = b.input_of(kFloat, sums_out), squares_out = b.result(kFloat, columns);
    b.run([&](At at) { return BatchNormSquares{.x = at(x), .sums = at(sums), .squares = at(squares_out)}; },
          batch_norm_squares, reference::batch_norm_squares, {{"squares", squares_out, 2e-6}});
    const Value squares = b.input_of(kFloat, squares_out), y = b.result(shape), mean_out = b.result(kFloat, columns),
                std_out = b.result(kFloat, columns), statistics = b.result(kFloat, two);
    b.run(
        [&](At at) {
          return BatchNormForward{.x = at(x),
                                  .sums = at(sums),
                                  .squares = at(squares),
                                  .gamma = at(gamma),
                                  .beta = at(beta),
                                  .y = at(y),
                                  .mean = at(mean_out),
                                  .inverse_std = at(std_out),
                                  .statistics = at(statistics)};
        },
        batch_norm_forward, reference::batch_norm_forward,
        {{"y", y, b.bound(2e-6, kBf16)}, {"statistics", statistics, 2e-6}});
    const Value mean = b.input_of(kFloat, mean_out), inverse_std = b.input_of(kFloat, std_out),
                d_sums_out = b.result(kFloat, two), d_gamma = b.result(kFloat, columns),
                d_beta = b.result(kFloat, columns);
    b.run(
        [&](At at) {
          return BatchNormBackwardSums{.x = at(x),
                                       .dy = at(dy),
                                       .mean = at(mean),
                                       .inverse_std = at(inverse_std),
                                       .sums = at(d_sums_out),
                                       .d_gamma = at(d_gamma),
                                       .d_beta = at(d_beta),
                                       .gamma_mode = kOverwrite,
                                       .beta_mode = kOverwrite};
        },
        batch_norm_backward_sums, reference::batch_norm_backward_sums,
        {{"sums of the gradient", d_sums_out, 5e-6}, {"d_gamma", d_gamma, 5e-6}, {"d_beta", d_beta, 5e-6}});
    const Value d_sums = b.input_of(kFloat, d_sums_out), dx = b.result(shape);
    b.run(
        [&](At at) {
          return BatchNormBackward{.x = at(x),
                                   .dy = at(dy),
                                   .mean = at(mean),
                                   .inverse_std = at(inverse_std),
                                   .gamma = at(gamma),
                                   .sums = at(d_sums),
                                   .forward_sums = at(sums),
                                   .dx = at(dx),
                                   .mode = kOverwrite};
        },
        batch_norm_backward, reference::batch_norm_backward, {{"dx", dx, b.bound(3e-6, kBf16)}});
  }
}

void nearest_neighbors_check(KernelBench& b) {
  const Value queries = b.coarse({7, 17}), bank = b.coarse({300, 17}), similarities = b.result(kFloat, {7, 20}),
              indices = b.result(DType::int32, {7, 20});
  b.run(
      [&](At at) {
        return NearestNeighbors{
            .queries = at(queries), .bank = at(bank), .similarities = at(similarities), .indices = at(indices)};
      },
      nearest_neighbors, reference::nearest_neighbors, {{"similarities", similarities, 0}, {"indices", indices, 0}});
}

void knn_vote_check(KernelBench& b) {
  static const std::vector<std::int32_t> kCounts{1, 10, 20};
  std::vector<std::int32_t> labels, places;
  for (std::int32_t i = 0; i < 300; ++i) labels.push_back(i * 7 % 10);
  for (std::int32_t i = 0; i < 7 * 20; ++i) places.push_back(i * 37 % 300);
  const Value similarities = b.coarse({7, 20}), indices = b.integers({7, 20}, places),
              label = b.integers({300}, labels), predictions = b.result(DType::int32, {3, 7, kTopClasses});
  b.run(
      [&](At at) {
        return KnnVote{.similarities = at(similarities),
                       .indices = at(indices),
                       .labels = at(label),
                       .classes = 10,
                       .ks = kCounts,
                       .temperature = 0.5,
                       .predictions = at(predictions)};
      },
      knn_vote, reference::knn_vote, {{"predictions", predictions, 0}});
}

void patchify_check(KernelBench& b) {
  struct Case {
    std::int64_t height, width, patch;
  };
  for (const Case& c : {Case{6, 9, 3}, Case{64, 96, 16}}) {
    const Value images = b.bytes({2, c.height, c.width, 3}),
                patches = b.result({2 * (c.height / c.patch) * (c.width / c.patch), 3 * c.patch * c.patch});
    b.run(
        [&](At at) {
          return Patchify{.images = at(images),
                          .patches = at(patches),
                          .patch_px = c.patch,
                          .mean = {0.485F, 0.456F, 0.406F},
                          .std = {0.229F, 0.224F, 0.225F}};
        },
        patchify, reference::patchify, {{"patches", patches, b.bound(1e-6, kBf16)}});
  }
}

void assemble_tokens_check(KernelBench& b) {
  for (const Shape& one : {Shape{5, 7}, Shape{37, 384}}) {  // tokens of a sequence, width
    const std::int64_t count = 3, length = one[0], width = one[1];
    const Value embedded = b.normal({count * (length - 1), width}), cls = b.normal(kFloat, {1, 1, width}),
                positions = b.normal(kFloat, {length, width}), tokens = b.result({count * length, width});
    b.run(
        [&](At at) {
          return AssembleTokens{.embedded = at(embedded),
                                .cls = at(cls),
                                .positions = at(positions),
                                .tokens = at(tokens),
                                .count = count};
        },
        assemble_tokens, reference::assemble_tokens, {{"tokens", tokens, b.bound(1e-6, kBf16)}});
  }
}

void assemble_tokens_backward_check(KernelBench& b) {
  for (const Shape& one : {Shape{5, 7}, Shape{37, 384}}) {
    const std::int64_t count = 3, length = one[0], width = one[1];
    const Value d_tokens = b.normal({count * length, width}), d_embedded = b.result({count * (length - 1), width}),
                d_cls = b.result(kFloat, {width}), d_positions = b.updated(kFloat, {length, width});
    b.run(
        [&](At at) {
          return AssembleTokensBackward{.d_tokens = at(d_tokens),
                                        .d_embedded = at(d_embedded),
                                        .d_cls = at(d_cls),
                                        .d_positions = at(d_positions),
                                        .count = count,
                                        .embedded_mode = kOverwrite,
                                        .cls_mode = kOverwrite,
                                        .positions_mode = kAccumulate};
        },
        assemble_tokens_backward, reference::assemble_tokens_backward,
        {{"d_embedded", d_embedded, b.bound(1e-6, kBf16)}, {"d_cls", d_cls, 1e-6}, {"d_positions", d_positions, 1e-6}});
  }
}

struct Grids {
  std::int64_t side, rows, columns, width;
  Shape from() const { return {1 + side * side, width}; }
  Shape to() const { return {1 + rows * columns, width}; }
};
constexpr Grids kOddGrids{3, 2, 5, 7}, kDinoGrids{14, 6, 6, 96};

void resize_pos_embed_check(KernelBench& b) {
  for (const Grids& g : {kOddGrids, kDinoGrids}) {
    const Value positions = b.normal(kFloat, g.from(), 0.02), resized = b.result(kFloat, g.to());
    b.run(
        [&](At at) {
          return ResizePosEmbed{
              .positions = at(positions), .resized = at(resized), .rows = g.rows, .columns = g.columns};
        },
        resize_pos_embed, reference::resize_pos_embed, {{"resized", resized, 1e-6}});
  }
}

void resize_pos_embed_backward_check(KernelBench& b) {
  for (const Grids& g : {kOddGrids, kDinoGrids}) {
    const Value d_resized = b.normal(kFloat, g.to()), d_positions = b.updated(kFloat, g.from());
    b.run(
        [&](At at) {
          return ResizePosEmbedBackward{.d_resized = at(d_resized),
                                        .d_positions = at(d_positions),
                                        .rows = g.rows,
                                        .columns = g.columns,
                                        .mode = kAccumulate};
        },
        resize_pos_embed_backward, reference::resize_pos_embed_backward, {{"d_positions", d_positions, 1e-6}});
  }
}

/// Tensors of several sizes with gaps between them, decayed and not, active and not.
std::vector<OptimizerSegment> optimizer_segments() {
  std::vector<OptimizerSegment> segments;
  std::int64_t offset = 0;
  int i = 0;
  for (const std::int64_t size : {1, 7, 1000, 16385, 384}) {
    segments.push_back({.offset = offset,
                        .size = size,
                        .step = 3,
                        .learning_rate = 0.01 * (1 + i),
                        .weight_decay = 0.04,
                        .teacher_momentum = 0.9,
                        .decayed = i % 2 == 0,
                        .adapted = i % 4 < 2,
                        .active = i != 2});
    offset += (size + 15) / 16 * 16;
    ++i;
  }
  return segments;
}
constexpr std::int64_t kFlatSize = 16 + 16 + 1008 + 16400 + 384;

void gradient_norms_check(KernelBench& b) {
  const auto segments = b.table(optimizer_segments());
  const auto count = static_cast<std::int64_t>(segments.host.size());
  const Value gradient = b.normal(kFloat, {kFlatSize}, 0.3), student = b.normal(kFloat, {kFlatSize}, 0.5),
              norms = b.result(kFloat, {count}), parameters = b.result(kFloat, {count}),
              updates = b.result(kFloat, {count});
  const Value flag = b.integers({1}, {0});
  b.run(
      [&](At at) {
        return GradientNorms{.segments = at(segments),
                             .gradient = at(gradient),
                             .norms = at(norms),
                             .non_finite = at(flag),
                             .student = at(student),
                             .parameter_norms = at(parameters),
                             .update_norms = at(updates),
                             .clip = 0.3};
      },
      gradient_norms, reference::gradient_norms,
      {{"norms", norms, 1e-6},
       {"parameter_norms", parameters, 1e-6},
       {"update_norms", updates, 1e-6},
       {"non_finite", flag, 0}});
}

void optimizer_step_check(KernelBench& b) {
  for (const OptimizerKind kind : {OptimizerKind::adamw, OptimizerKind::sgd, OptimizerKind::lars}) {
    const auto segments = b.table(optimizer_segments());
    const auto count = static_cast<std::int64_t>(segments.host.size());
    const Shape flat{kFlatSize}, each{count};
    const Value gradient = b.normal(kFloat, flat, 0.3), norms = b.normal(kFloat, each, 0.1, 5),
                parameters = b.normal(kFloat, each, 0.1, 5), updates = b.normal(kFloat, each, 0.1, 5);
    const Value student = b.updated(kFloat, flat, 0.5), first = b.updated(kFloat, flat, 0.1),
                second = b.updated(kFloat, flat, 0.01, 0.1), teacher = b.updated(kFloat, flat, 0.5);
    const Value student_working = b.updated(DType::bfloat16, flat), teacher_working = b.updated(DType::bfloat16, flat);
    b.run(
        [&](At at) {
          return OptimizerStep{.segments = at(segments),
                               .kind = kind,
                               .clip = 0.3,
                               .gradient = at(gradient),
                               .norms = at(norms),
                               .parameter_norms = at(parameters),
                               .update_norms = at(updates),
                               .student = at(student),
                               .first_moment = at(first),
                               .second_moment = kind == OptimizerKind::adamw ? at(second) : Array(),
                               .student_working = at(student_working),
                               .teacher = at(teacher),
                               .teacher_working = at(teacher_working)};
        },
        optimizer_step, reference::optimizer_step,
        {{"student", student, 3e-7},
         {"first_moment", first, 3e-7},
         {"second_moment", second, 3e-7},
         {"teacher", teacher, 3e-7},
         {"student_working", student_working, kBf16},
         {"teacher_working", teacher_working, kBf16}});
  }
}

/// A crop in which every step of the augmentation has something to do.
CropPlan busy_plan(int side_px) {
  CropPlan plan;
  plan.top = 3;
  plan.left = 5;
  plan.height = 40;
  plan.width = 51;
  plan.resized_height = plan.resized_width = plan.output_height = plan.output_width = side_px;
  plan.flip = true;
  plan.jitter_steps = 4;
  plan.brightness = 1.2F;
  plan.contrast = 0.8F;
  plan.saturation = 1.1F;
  plan.hue = 0.05;
  plan.blur_radius = 0.7F;
  plan.solarize = true;
  return plan;
}

void augment_crop_check(KernelBench& b) {
  for (const int side : {17, 96}) {
    const Value image = b.bytes({48, 64, 3}), crop = b.result(DType::uint8, {side, side, 3});
    b.run([&](At at) { return AugmentCrop{.image = at(image), .plan = busy_plan(side), .output = at(crop)}; },
          augment_crop, reference::augment_crop, {{"crop", crop, 0}});
  }
}

void augment_crops_check(KernelBench& b) {
  const std::int64_t bytes = 48 * 64 * 3;
  CropPlan grey = busy_plan(32);
  grey.grey = true;
  grey.filter = ResizeFilter::bilinear;
  const auto pictures = b.table(std::vector<CropPicture>{{0, 48, 64}, {bytes, 48, 64}});
  const auto plans = b.table(std::vector<CropPlan>{busy_plan(32), grey, grey, busy_plan(32)});
  const Value images = b.bytes({2 * bytes}), crops = b.result(DType::uint8, {4, 32, 32, 3});
  b.run(
      [&](At at) {
        return AugmentCrops{.images = at(images), .pictures = at(pictures), .plans = at(plans), .output = at(crops)};
      },
      augment_crops, reference::augment_crops, {{"crops", crops, 0}});
}

struct Checked {
  const char* name;
  bool two_types;  // is there a choice of the element type
  void (*check)(KernelBench&);
};
constexpr Checked kOperations[] = {
    {"attention_backward", true, attention_backward_check},
    {"attention_forward", true, attention_forward_check},
    {"cls_attention_backward", true, cls_attention_backward_check},
    {"cls_attention_forward", true, cls_attention_forward_check},
    {"augment_crop", false, augment_crop_check},
    {"augment_crops", false, augment_crops_check},
    {"batch_norm", true, batch_norm_check},
    {"cast", false, cast_check},
    {"column_sum", true, column_sum_check},
    {"center_update", false, center_update_check},
    {"dino_loss_with_gradient", true, dino_loss_check},
    {"gather_rows", true, gather_rows_check},
    {"gather_rows_backward", true, gather_rows_backward_check},
    {"gelu_backward", true, gelu_backward_check},
    {"gelu_forward", true, gelu_forward_check},
    {"knn_vote", false, knn_vote_check},
    {"nearest_neighbors", false, nearest_neighbors_check},
    {"l2_normalize", true, l2_normalize_check},
    {"l2_normalize_backward", true, l2_normalize_backward_check},
    {"layer_norm_backward", true, layer_norm_backward_check},
    {"layer_norm_forward", true, layer_norm_forward_check},
    {"matmul", true, matmul_check},
    {"gradient_norms", false, gradient_norms_check},
    {"optimizer_step", false, optimizer_step_check},
    {"assemble_tokens", true, assemble_tokens_check},
    {"assemble_tokens_backward", true, assemble_tokens_backward_check},
    {"patchify", true, patchify_check},
    {"resize_pos_embed", false, resize_pos_embed_check},
    {"resize_pos_embed_backward", false, resize_pos_embed_backward_check},
    {"weight_norm", true, weight_norm_check},
    {"weight_norm_backward", true, weight_norm_backward_check},
};

/// Makes the CPU kernels run with one instruction set; afterwards with the best again.
class ChosenTarget {
 public:
  explicit ChosenTarget(std::int64_t target) { hwy::GetChosenTarget().Update(target); }
  ~ChosenTarget() { hwy::GetChosenTarget().Update(hwy::SupportedTargets()); }
  ChosenTarget(const ChosenTarget&) = delete;
  ChosenTarget& operator=(const ChosenTarget&) = delete;
};

/// Instruction sets that the kernels are compiled for and this machine has; 0 alone where there is no choice.
std::vector<std::int64_t> targets_of(Device device) {
  if (device != Device::cpu) return {0};
  std::vector<std::int64_t> targets;
  const std::int64_t all = (hwy::SupportedTargets() & HWY_TARGETS) | HWY_SCALAR;
  for (std::int64_t rest = all; rest != 0; rest &= rest - 1) targets.push_back(rest & -rest);
  return targets;
}

}  // namespace

SelfChecks check_kernels(Context& context, const SelfTestProgress& progress) {
  SelfChecks checks;
  std::int64_t done = 0;
  for (const Checked& operation : kOperations) {
    if (progress) progress(done, std::size(kOperations), operation.name);
    ++done;
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      if (dtype != DType::float32 && !operation.two_types) continue;
      for (const std::int64_t target : targets_of(context.device())) {
        std::optional<ChosenTarget> chosen;
        if (target != 0) chosen.emplace(target);
        KernelBench bench(context, dtype);
        SelfCheck check{.group = "kernels", .name = operation.name};
        if (operation.two_types) check.dtype = dtype == DType::float32 ? "fp32" : "bf16";
        if (target != 0) check.target = hwy::TargetName(target);
        try {
          operation.check(bench);
          bench.worst().finish(check);
        } catch (const Error& error) {
          fail_check(check, error);
        }
        checks.push_back(std::move(check));
      }
    }
  }
  return checks;
}

}  // namespace dino
