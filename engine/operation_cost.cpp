#include "engine/operation_cost.h"

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

#include <algorithm>
#include <initializer_list>
#include <vector>

namespace dino {
namespace {

constexpr std::string_view kGemm = "GEMM", kAttention = "attention", kNorm = "layer norm", kGelu = "GELU",
                           kTokens = "patches and tokens", kHead = "head's norms", kLoss = "loss",
                           kOptimizer = "optimiser", kSums = "bias gradients", kCrops = "crops", kKnn = "k-NN";

double bytes_of(std::initializer_list<ConstArray> arrays) {
  double bytes = 0;
  for (const ConstArray& array : arrays) bytes += static_cast<double>(array.size_bytes());
  return bytes;
}

/// What writing a gradient moves: adding reads it first.
double written(const Array& array, GradientMode mode) {
  const auto bytes = static_cast<double>(array.size_bytes());
  return mode == GradientMode::ignore ? 0 : mode == GradientMode::accumulate ? 2 * bytes : bytes;
}

double count(const ConstArray& array) { return static_cast<double>(array.size()); }

std::string size_of_array(const ConstArray& array) { return array.shape().to_string(); }

/// `bf16, accumulate`
std::string options(DType type, GradientMode mode = GradientMode::overwrite) {
  return fmt::format("{}{}", name_of(type), mode == GradientMode::accumulate ? ", accumulate" : "");
}

/// The sum of the squares of the sequences' lengths.
double squared_lengths(const ConstArray& offsets, Stream& stream) {
  std::vector<std::int32_t> host(static_cast<std::size_t>(offsets.size()));
  stream.copy_to_host(host.data(), offsets.data(), offsets.size_bytes());
  double squares = 0;
  for (std::size_t s = 1; s < host.size(); ++s) {
    const double length = host[s] - host[s - 1];
    squares += length * length;
  }
  return squares;
}

OperationCost cost(const Matmul& a, Stream&) {
  if (a.mode == GradientMode::ignore) return {.group = kGemm};
  const auto [m, n, k] = checked_size(a);
  return {.group = kGemm,
          .work = fmt::format("{}{}{}{}{} to {}", a.transpose_a ? "T" : "N", a.transpose_b ? "T" : "N",
                              a.bias ? " bias" : "", a.gelu ? a.preactivation ? " gelu keep" : " gelu" : "",
                              " " + options(a.a.dtype(), a.mode), name_of(a.y.dtype())),
          .size = fmt::format("{} x {} x {}", m, n, k),
          .bytes = bytes_of({a.a, a.b, a.preactivation}) + written(a.y, a.mode),
          .flops = 2.0 * static_cast<double>(m * n) * static_cast<double>(k),
          .type = a.a.dtype()};
}

OperationCost cost(const AttentionForward& a, Stream& stream) {
  const auto width = static_cast<double>(a.out.extent(1));
  return {.group = kAttention,
          .work = options(a.qkv.dtype()) + (a.logsumexp ? ", logsumexp" : ""),
          .size = fmt::format("{} of {}, at most {}, {} heads", size_of_array(a.qkv), a.offsets.size() - 1,
                              a.max_length, a.heads),
          .bytes = bytes_of({a.qkv, a.out}),
          .flops = 4 * squared_lengths(a.offsets, stream) * width,
          .type = a.qkv.dtype()};
}

OperationCost cost(const AttentionBackward& a, Stream& stream) {
  if (a.mode == GradientMode::ignore) return {.group = kAttention};
  const auto width = static_cast<double>(a.out.extent(1));
  return {.group = kAttention,
          .work = options(a.qkv.dtype(), a.mode),
          .size = fmt::format("{} of {}, at most {}, {} heads", size_of_array(a.qkv), a.offsets.size() - 1,
                              a.max_length, a.heads),
          .bytes = bytes_of({a.qkv, a.out, a.d_out}) + written(a.d_qkv, a.mode),
          .flops = 10 * squared_lengths(a.offsets, stream) * width,
          .type = a.qkv.dtype()};
}

OperationCost cost(const ClsAttentionForward& a, Stream&) {
  return {.group = kAttention,
          .work = options(a.kv.dtype()),
          .size = fmt::format("{} of {}, {} heads", size_of_array(a.kv), a.offsets.size() - 1, a.heads),
          .bytes = bytes_of({a.kv}),
          .flops = 2 * count(a.kv),
          .type = a.kv.dtype()};
}

OperationCost cost(const ClsAttentionBackward& a, Stream&) {
  return {.group = kAttention,
          .work = options(a.kv.dtype(), a.d_kv_mode),
          .size = fmt::format("{} of {}, {} heads", size_of_array(a.kv), a.offsets.size() - 1, a.heads),
          .bytes = bytes_of({a.kv}) + written(a.d_kv, a.d_kv_mode),
          .flops = 5 * count(a.kv),
          .type = a.kv.dtype()};
}

OperationCost cost(const LayerNormForward& a, Stream&) {
  return {.group = kNorm,
          .work = options(a.x.dtype()) + (a.branch ? ", branch" : "") + (a.branch_scale ? ", scaled" : ""),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x, a.branch, a.sum, a.normalized}),
          .flops = 8 * count(a.x),
          .type = a.x.dtype()};
}

OperationCost cost(const LayerNormBackward& a, Stream&) {
  return {.group = kNorm,
          .work = fmt::format("{}{}{}{}", options(a.sum.dtype(), a.dx_mode), a.d_normalized ? ", normalized" : "",
                              a.d_sum ? ", sum" : "", a.branch_scale ? ", scaled" : ""),
          .size = size_of_array(a.sum),
          .bytes = bytes_of({a.sum, a.d_normalized, a.d_sum}) + written(a.dx, a.dx_mode) +
                   written(a.d_branch, a.d_branch_mode),
          .flops = 16 * count(a.sum),
          .type = a.sum.dtype()};
}

OperationCost cost(const GeluForward& a, Stream&) {
  return {.group = kGelu,
          .work = options(a.x.dtype()),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x, a.y}),
          .flops = 30 * count(a.x),
          .type = a.x.dtype()};
}

OperationCost cost(const GeluBackward& a, Stream&) {
  if (a.mode == GradientMode::ignore) return {.group = kGelu};
  return {.group = kGelu,
          .work = options(a.x.dtype(), a.mode) + (a.dbias_mode == GradientMode::ignore ? "" : ", bias"),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x, a.dy}) + written(a.dx, a.mode),
          .flops = 35 * count(a.x),
          .type = a.x.dtype()};
}

OperationCost cost(const ColumnSum& a, Stream&) {
  if (a.mode == GradientMode::ignore) return {.group = kSums};
  return {.group = kSums,
          .work = options(a.x.dtype()),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x}),
          .type = a.x.dtype()};
}

OperationCost cost(const Patchify& a, Stream&) {
  return {.group = kTokens,
          .work = fmt::format("{} to {}", name_of(a.images.dtype()), name_of(a.patches.dtype())),
          .size = fmt::format("{}, patches of {}", size_of_array(a.images), a.patch_px),
          .bytes = bytes_of({a.images, a.patches}),
          .type = a.patches.dtype()};
}

OperationCost cost(const AssembleTokens& a, Stream&) {
  return {.group = kTokens,
          .work = options(a.tokens.dtype()),
          .size = size_of_array(a.tokens),
          .bytes = bytes_of({a.embedded, a.tokens}),
          .type = a.tokens.dtype()};
}

OperationCost cost(const AssembleTokensBackward& a, Stream&) {
  return {.group = kTokens,
          .work = options(a.d_tokens.dtype()),
          .size = size_of_array(a.d_tokens),
          .bytes = bytes_of({a.d_tokens}) + written(a.d_embedded, a.embedded_mode),
          .type = a.d_tokens.dtype()};
}

OperationCost cost(const ResizePosEmbed& a, Stream&) {
  return {.group = kTokens,
          .work = "",
          .size = size_of_array(a.positions) + size_of_array(a.resized),
          .bytes = bytes_of({a.positions, a.resized}),
          .flops = 32 * count(a.resized)};
}

OperationCost cost(const ResizePosEmbedBackward& a, Stream&) {
  if (a.mode == GradientMode::ignore) return {.group = kTokens};
  return {.group = kTokens,
          .work = options(a.d_resized.dtype(), a.mode),
          .size = size_of_array(a.d_positions) + size_of_array(a.d_resized),
          .bytes = bytes_of({a.d_resized}) + written(a.d_positions, a.mode),
          .flops = 32 * count(a.d_resized)};
}

OperationCost cost(const GatherRows& a, Stream&) {
  return {.group = kTokens,
          .work = options(a.x.dtype()),
          .size = size_of_array(a.y),
          .bytes = 2 * bytes_of({a.y}),
          .type = a.x.dtype()};
}

OperationCost cost(const GatherRowsBackward& a, Stream&) {
  if (a.mode == GradientMode::ignore) return {.group = kTokens};
  const double rows = bytes_of({a.dy});
  return {.group = kTokens,
          .work = options(a.dx.dtype(), a.mode),
          .size = size_of_array(a.dy) + size_of_array(a.dx),
          .bytes = a.mode == GradientMode::accumulate ? 3 * rows : rows + bytes_of({a.dx}),
          .type = a.dx.dtype()};
}

OperationCost cost(const L2Normalize& a, Stream&) {
  return {.group = kHead,
          .work = options(a.x.dtype()),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x, a.y}),
          .flops = 3 * count(a.x),
          .type = a.x.dtype()};
}

OperationCost cost(const L2NormalizeBackward& a, Stream&) {
  if (a.mode == GradientMode::ignore) return {.group = kHead};
  return {.group = kHead,
          .work = options(a.x.dtype(), a.mode),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x, a.dy}) + written(a.dx, a.mode),
          .flops = 7 * count(a.x),
          .type = a.x.dtype()};
}

OperationCost cost(const WeightNorm& a, Stream&) {
  return {.group = kHead,
          .work = options(a.w.dtype()),
          .size = size_of_array(a.v),
          .bytes = bytes_of({a.v, a.w}),
          .flops = 3 * count(a.v)};
}

OperationCost cost(const WeightNormBackward& a, Stream&) {
  return {.group = kHead,
          .work = options(a.dw.dtype(), a.dv_mode),
          .size = size_of_array(a.v),
          .bytes = bytes_of({a.v, a.dw}) + written(a.dv, a.dv_mode),
          .flops = 7 * count(a.v)};
}

OperationCost cost(const BatchNormSums& a, Stream&) {
  return {.group = kHead,
          .work = options(a.x.dtype()),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x}),
          .flops = count(a.x),
          .type = a.x.dtype()};
}

OperationCost cost(const BatchNormSquares& a, Stream&) {
  return {.group = kHead,
          .work = options(a.x.dtype()),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x}),
          .flops = 3 * count(a.x),
          .type = a.x.dtype()};
}

OperationCost cost(const BatchNormForward& a, Stream&) {
  return {.group = kHead,
          .work = options(a.x.dtype()),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x, a.y}),
          .flops = 2 * count(a.x),
          .type = a.x.dtype()};
}

OperationCost cost(const BatchNormBackwardSums& a, Stream&) {
  return {.group = kHead,
          .work = options(a.x.dtype()),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x, a.dy}),
          .flops = 5 * count(a.x),
          .type = a.x.dtype()};
}

OperationCost cost(const BatchNormBackward& a, Stream&) {
  return {.group = kHead,
          .work = options(a.x.dtype(), a.mode),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x, a.dy}) + written(a.dx, a.mode),
          .flops = 5 * count(a.x),
          .type = a.x.dtype()};
}

OperationCost cost(const DinoLossWithGradient& a, Stream&) {
  return {.group = kLoss,
          .work = options(a.student.dtype()) + (a.student_gradient ? "" : ", no gradient"),
          .size = size_of_array(a.student) + size_of_array(a.teacher),
          .bytes = bytes_of({a.student, a.teacher, a.student_gradient}),
          .flops = 40 * (count(a.student) + count(a.teacher)),
          .type = a.student.dtype()};
}

OperationCost cost(const CenterUpdate& a, Stream&) {
  return {.group = kLoss,
          .work = "",
          .size = size_of_array(a.center),
          .bytes = bytes_of({a.sum, a.center, a.center}),
          .flops = 3 * count(a.center)};
}

OperationCost cost(const GradientNorms& a, Stream&) {
  return {.group = kOptimizer,
          .work = "",
          .size = size_of_array(a.gradient),
          .bytes = bytes_of({a.gradient, a.student}),
          .flops = 2 * count(a.gradient)};
}

OperationCost cost(const OptimizerStep& a, Stream&) {
  return {.group = kOptimizer,
          .work = fmt::format("{}{}", static_cast<int>(a.kind), a.student_working ? ", working copies" : ""),
          .size = size_of_array(a.student),
          .bytes = bytes_of({a.gradient, a.student_working, a.teacher_working}) +
                   2 * bytes_of({a.student, a.first_moment, a.second_moment, a.teacher}),
          .flops = 20 * count(a.student)};
}

OperationCost cost(const Cast& a, Stream&) {
  return {.group = kOptimizer,
          .work = fmt::format("{} to {}", name_of(a.x.dtype()), name_of(a.y.dtype())),
          .size = size_of_array(a.x),
          .bytes = bytes_of({a.x, a.y})};
}

OperationCost cost(const AugmentCrop& a, Stream&) {
  return {.group = kCrops, .work = "one", .size = size_of_array(a.output), .bytes = bytes_of({a.output})};
}

OperationCost cost(const AugmentCrops& a, Stream&) {
  return {.group = kCrops, .work = "batch", .size = size_of_array(a.output), .bytes = bytes_of({a.output})};
}

OperationCost cost(const NearestNeighbors& a, Stream&) {
  return {.group = kKnn,
          .work = "",
          .size = size_of_array(a.queries) + size_of_array(a.bank),
          .bytes = bytes_of({a.queries, a.bank}),
          .flops = 2 * count(a.queries) * static_cast<double>(a.bank.extent(0))};
}

OperationCost cost(const KnnVote& a, Stream&) {
  return {.group = kKnn,
          .work = "",
          .size = size_of_array(a.indices),
          .bytes = bytes_of({a.similarities, a.indices, a.predictions})};
}

/// Fills `result` where the operation's arguments are of this type.
template <typename Args>
bool try_cost(const Operation& operation, Stream& stream, OperationCost& result) {
  const Args* args = operation.as<Args>();
  if (args == nullptr) return false;
  result = cost(*args, stream);
  return true;
}

template <typename... Args>
bool try_all(const Operation& operation, Stream& stream, OperationCost& result) {
  return (try_cost<Args>(operation, stream, result) || ...);
}

}  // namespace

OperationCost cost_of(const Operation& operation, Stream& stream) {
  OperationCost result;
  const bool known =
      try_all<Matmul, AttentionForward, AttentionBackward, ClsAttentionForward, ClsAttentionBackward, LayerNormForward,
              LayerNormBackward, GeluForward, GeluBackward, ColumnSum, Patchify, AssembleTokens, AssembleTokensBackward,
              ResizePosEmbed, ResizePosEmbedBackward, GatherRows, GatherRowsBackward, L2Normalize, L2NormalizeBackward,
              WeightNorm, WeightNormBackward, BatchNormSums, BatchNormSquares, BatchNormForward, BatchNormBackwardSums,
              BatchNormBackward, DinoLossWithGradient, CenterUpdate, GradientNorms, OptimizerStep, Cast, AugmentCrop,
              AugmentCrops, NearestNeighbors, KnnVote>(operation, stream, result);
  require(known, "cost", "the operation {} has no cost; try adding it to operation_cost.cpp", operation.name);
  result.work = fmt::format("{} {}", operation.name, result.work);
  return result;
}

}  // namespace dino
